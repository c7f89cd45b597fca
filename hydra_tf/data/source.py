"""The three splits of a data set, as single examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hydra_tf.core.lazy import tf
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.unreadable import UnreadableLog

Example: TypeAlias = "tuple[tf.Tensor, tf.Tensor]"  # (image, label)
Decode: TypeAlias = "Callable[[tf.Tensor, tf.Tensor | None], Example]"


@dataclass(frozen=True)
class Source:
    """The splits of a data set as single examples, neither shuffled nor batched.

    A data set that fits into memory needs only the first four fields. A larger one yields records
    (file names or encoded images, for example) and defines how to shuffle and decode them.

    Args:
        train: examples (image [height, width, channels], integer label); the image is uint8
            in [0, 255] or float32 in [0, 1]. The number of examples must be known.
        validation: the same, for choices made during training.
        test: the same, for the final report only.
        num_classes: number of classes.
        augment: the data set's standard augmentation of training batches, if it has one.
        decode: (record, seed) -> (image, label), when examples are records; the seed is int64
            [2], or None for a centre crop in place of a random crop. An image with the label
            ``unreadable.UNREADABLE_LABEL`` is replaced by the next readable one of the batch.
        order: seeds int64 [2] -> the training examples of a pass, in an order that depends on
            the seeds alone; when left out, all of `train` is shuffled in memory.
        gather_batch: batch of the elements of `order` -> (images, labels), when these elements
            are indices of a table in memory.
        unreadable: where `decode` logs what it could not read.
        fingerprint: () -> a hash of images and labels, which costs little against training and
            need not cover every image; a resumed run must find the same.

    Example:
        >>> import hydra_tf
        >>> examples = tf.data.Dataset.from_tensor_slices((tf.zeros([9, 4, 4, 1]), [0, 1, 2] * 3))
        >>> source = Source(examples.take(5), examples.skip(5).take(2), examples.skip(7), 3)
        >>> dict(hydra_tf.data.load(lambda: source, batch_size=5).sizes)
        {'train': 5, 'validation': 2, 'test': 2}
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    augment: Augment | None = None
    decode: Decode | None = None
    order: Callable[[tf.Tensor], tf.data.Dataset] | None = None
    gather_batch: Callable[[tf.Tensor], Example] | None = None
    unreadable: UnreadableLog | None = None
    fingerprint: Callable[[], str] | None = None
