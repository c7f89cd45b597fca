"""1,797 small digits (Alpaydin and Kaynak, 1998) that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hydra_tf.data.sets.base import DATASETS, DataSet
from hydra_tf.data.sets.splitting import split_arrays
from hydra_tf.data.source import Source


@DATASETS.register()
@dataclass(frozen=True)
class Digits(DataSet):
    """1,257 training, 180 validation and 360 test images of 8x8x1, stratified.

    Args:
        crop: pixels of random shift, see :class:`DataSet`; 0, since the digits are centred.
        flip: mirror at random; off, since mirrored digits are not digits.

    Example:
        >>> int(Digits()().train.cardinality())
        1257
    """

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`."""
        from sklearn.datasets import load_digits

        table = load_digits()
        images = (table.images[..., np.newaxis] / 16.0).astype(np.float32)  # from 0 to 16
        return split_arrays(
            images, table.target, validation=180, test=360, augment=self.augmentation()
        )
