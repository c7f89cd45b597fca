"""What a data set hands over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hydra_tf.core.lazy import tf
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.decoding import Unreadable


@dataclass(frozen=True)
class Source:
    """What a data set hands over: single examples, not yet shuffled or batched.

    A data set that fits into memory needs the first four fields alone. One that does not
    holds records, file names or encoded images say, and tells how they are shuffled and decoded.

    Args:
        train: examples (image [height, width, channels], integer label); the image is uint8
            in [0, 255] or float32 in [0, 1]. The number of examples must be known.
        validation: the same, for choices made during training.
        test: the same, for the final report only.
        num_classes: number of classes.
        augment: the data set's standard augmentation of training batches, if it has one.
        decode: (record, seed) -> (image, label), when examples are records; the seed is int64
            [2], or None for an image that is not to be cut at random. A label of
            ``decoding.UNREADABLE`` marks an image that the next good one of the batch replaces.
        order: seeds int64 [2] -> the training examples of a pass, in an order that depends on
            the seeds alone; when left out, `train` is shuffled in memory as a whole.
        look_up: batch of what `order` gives -> (images, labels), when those are places in a
            table that is in memory.
        unreadable: where `decode` notes what it could not read.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    augment: Augment | None = None
    decode: Callable[[Any, Any], tuple[Any, Any]] | None = None
    order: Callable[[Any], Any] | None = None
    look_up: Callable[[Any], tuple[Any, Any]] | None = None
    unreadable: Unreadable | None = None
