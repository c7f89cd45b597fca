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
    """Base of the data sets: their parameters, and one method that reads them.

    Args:
        crop: training images are padded by this many pixels of 0 on every side and cropped to
            their size at a random position; 0 leaves them unchanged.
        flip: whether to mirror each training image left to right with probability 1/2.

    Example:
        >>> from hydra_tf.core.lazy import tf
        >>> @dataclass(frozen=True)
        ... class Blank(DataSet):
        ...     def __call__(self):
        ...         images = tf.zeros([3, 4, 4, 1]), [0, 1, 2]
        ...         return Source(*[tf.data.Dataset.from_tensor_slices(images)] * 3, num_classes=3)
        >>> Blank(crop=1).crop, int(Blank()().validation.cardinality())
        (1, 3)
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_crop(self.crop)

    @abc.abstractmethod
    def __call__(self) -> Source:
        """Read the data set."""

    def augmentation(self) -> Augment | None:
        """Return the augmentation defined by the parameters, or None."""
        return crop_and_flip(self.crop, self.flip)
