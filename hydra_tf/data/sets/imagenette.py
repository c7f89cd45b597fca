"""Imagenette (Howard, 2019): ten easily distinguished classes of ImageNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hydra_tf.data.sets.base import DATASETS
from hydra_tf.data.sets.records import PreparedPhotographs


@DATASETS.register()
@dataclass(frozen=True)
class Imagenette(PreparedPhotographs):
    """8,522 training, 947 validation and 3,925 test images, 10 classes.

    Args:
        crop: pixels of random shift after the random crop.
        flip: mirror at random.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images, the last ones, used for validation.
        size: height and width that images are resized to.
        buffer: number of encoded images from which the next one of a pass is chosen.
        variant: the prepared copy: original images, or a short side of 320 or 160 pixels.

    Example:
        >>> Imagenette(variant="160px-v2").full_name
        'imagenette/160px-v2'
    """

    size: int = 160
    variant: Literal["full-size-v2", "320px-v2", "160px-v2"] = "full-size-v2"

    builder_name: ClassVar[str] = "imagenette"

    @property
    def full_name(self) -> str:
        """Name and configuration in TensorFlow Datasets."""
        return f"{self.builder_name}/{self.variant}"
