"""MNIST (LeCun et al., 1998): 70,000 handwritten digits of 28x28x1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.data.sets.base import DATASETS
from hydra_tf.data.sets.tfds import PreparedDataSet


@DATASETS.register()
@dataclass(frozen=True)
class MNIST(PreparedDataSet):
    """54,000 training, 6,000 validation and 10,000 test images, 10 classes.

    Args:
        crop: pixels of random shift; 0, since the digits are centred.
        flip: mirror at random; off, since mirrored digits are not digits.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images used for validation.

    Example:
        >>> MNIST(data_dir="~/data").crop
        0
    """

    builder_name: ClassVar[str] = "mnist"
