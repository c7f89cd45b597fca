"""The registry of data sets."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

from hydra_tf.core.registry import Registry
from hydra_tf.data.augmentation import Augment, check_crop, crop_and_flip
from hydra_tf.data.source import Source

DATASETS: Registry[Callable[[], Source]] = Registry("data set", "hydra_tf.data.sets")
build = DATASETS.build


@dataclass(frozen=True)
class DataSet(abc.ABC):
    """A data set: parameters, and one method that reads it.

    Args:
        crop: training images are padded by so many pixels of 0 on every side and cut back
            to their size at a random place; 0 leaves them as they are.
        flip: whether half of the training images are mirrored left to right.
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_crop(self.crop)

    @abc.abstractmethod
    def __call__(self) -> Source:
        """Read the data set."""

    def augmentation(self) -> Augment | None:
        """Return the augmentation that the parameters ask for, or None."""
        return crop_and_flip(self.crop, self.flip)
