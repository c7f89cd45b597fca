"""ImageNet (Russakovsky et al., 2015): photographs of a thousand classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.data.sets.base import DATASETS
from hydra_tf.data.sets.records import PreparedPhotographs


@DATASETS.register()
@dataclass(frozen=True)
class ImageNet(PreparedPhotographs):
    """1,268,355 training, 12,812 validation and 50,000 test images, 1,000 classes.

    The test images are ImageNet's validation split; the labels of its test split are not
    published.

    Args:
        crop: pixels of random shift after the random crop.
        flip: mirror at random.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images, the last ones, used for validation.
        size: height and width that images are resized to.
        buffer: number of encoded images from which the next one of a pass is chosen.

    Example:
        >>> ImageNet(data_dir="~/data").size
        224
    """

    validation_share: float = 0.01

    builder_name: ClassVar[str] = "imagenet2012"
