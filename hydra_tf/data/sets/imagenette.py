"""Imagenette (Howard, 2019): ten easily told classes of ImageNet."""

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
        crop: pixels of random shift on top of the cut.
        flip: mirror at random.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images, the last ones, kept for validation.
        size: height and width that images are resized to.
        buffer: number of encoded images among which the next one of a pass is chosen.
        variant: the prepared copy: images as they were, or with a short side of 320 or 160.

    Example:
        >>> Imagenette(variant="160px-v2").full_name
        'imagenette/160px-v2'
    """

    size: int = 160
    variant: Literal["full-size-v2", "320px-v2", "160px-v2"] = "full-size-v2"

    builder_name: ClassVar[str] = "imagenette"

    @property
    def full_name(self) -> str:
        """Name in TensorFlow Datasets, with its configuration."""
        return f"{self.builder_name}/{self.variant}"
