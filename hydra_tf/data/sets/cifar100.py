"""CIFAR-100 (Krizhevsky, 2009): objects in photographs of 32x32x3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.data.sets.base import DATASETS
from hydra_tf.data.sets.tfds import PreparedDataSet


@DATASETS.register()
@dataclass(frozen=True)
class CIFAR100(PreparedDataSet):
    """45,000 training, 5,000 validation and 10,000 test images, 100 classes.

    Args:
        crop: pixels of random shift.
        flip: mirror at random.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images used for validation.

    Example:
        >>> CIFAR100(data_dir="~/data").crop
        4
    """

    crop: int = 4
    flip: bool = True

    builder_name: ClassVar[str] = "cifar100"
