"""SVHN (Netzer et al., 2011): house numbers cut to single digits of 32x32x3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.data.sets.base import DATASETS
from hydra_tf.data.sets.tfds import PreparedDataSet


@DATASETS.register()
@dataclass(frozen=True)
class SVHN(PreparedDataSet):
    """65,931 training, 7,326 validation and 26,032 test images, 10 classes.

    Args:
        crop: pixels of random shift.
        flip: mirror at random; off, since mirrored digits are not digits.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images used for validation.

    Example:
        >>> SVHN(data_dir="~/data").crop
        4
    """

    crop: int = 4

    builder_name: ClassVar[str] = "svhn_cropped"
