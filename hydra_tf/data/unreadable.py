"""Images that cannot be read: logged, marked by their label, and replaced within the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from hydra_tf.core.lazy import tf

UNREADABLE_LABEL = -1  # of an image that could not be read, until it is replaced
OTHER_WORKER_LABEL = -2  # of an image that another worker decodes
_ALL_UNREADABLE = (
    "No image of a batch could be read; see the warnings for their names, and check that the disk "
    "is still mounted."
)
_NAMES_SHOWN = 5  # in a warning


class UnreadableLog:
    """Collects the names of images that cannot be read, for one warning at the end of a pass.

    Example:
        >>> unreadable = UnreadableLog()
        >>> unreadable.add(b"cat/3.jpg")
        True
        >>> list(unreadable.warn())  # logs, and yields nothing
        []
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, name: bytes) -> bool:
        """Add a name; return True, since ``tf.numpy_function`` needs a value."""
        self._names.add(bytes(name).decode(errors="replace"))
        return True

    def warn(self) -> Iterator[Any]:
        """Warn of the names added since the last warning; yield nothing."""
        names, self._names = sorted(self._names), set()
        if names:
            hidden = len(names) - _NAMES_SHOWN
            logging.warning(
                "%d images could not be read in this pass and were replaced by the next readable "
                "ones: %s%s.",
                len(names),
                ", ".join(names[:_NAMES_SHOWN]),
                f" and {hidden} more" if hidden > 0 else "",
            )
        yield from ()


def read_or_mark(
    read: Callable[[], tuple[tf.Tensor, tf.Tensor]],
    shape: tuple[int, int, int],
    name: tf.Tensor,
    unreadable: UnreadableLog,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the result of `read`, or a black image labelled UNREADABLE_LABEL if it fails.

    Args:
        read: () -> (image, label), in a graph.
        shape: (height, width, channels) of the image.
        name: scalar string, logged if `read` fails.
        unreadable: where it is logged.

    Returns:
        Image uint8 [height, width, channels] and label int64.
    """
    # A graph cannot catch errors, but a dataset of one element drops an element that fails.
    one = tf.data.Dataset.from_tensors(0).map(lambda _: read()).ignore_errors()
    black = tf.zeros(shape, tf.uint8)
    fallback = tf.data.Dataset.from_tensors((black, tf.constant(UNREADABLE_LABEL, tf.int64)))
    image, label = one.concatenate(fallback).take(1).get_single_element()
    tf.cond(
        label == UNREADABLE_LABEL,
        lambda: tf.ensure_shape(tf.numpy_function(unreadable.add, [name], tf.bool), []),
        lambda: True,
    )
    return tf.ensure_shape(image, black.shape), label


def replace_unreadable(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Replace each unreadable image by the next readable one of the batch, cyclically.

    Args:
        images: [batch, height, width, channels].
        labels: [batch], UNREADABLE_LABEL where an image could not be read, OTHER_WORKER_LABEL
            where another worker decodes it.

    Raises:
        tf.errors.InvalidArgumentError: when the batch has unreadable images only.

    Example:
        >>> images = tf.reshape([1.0, 0.0, 3.0, 0.0], [4, 1, 1, 1])
        >>> replace_unreadable(images, tf.constant([7, -1, 9, -1]))[1].numpy().tolist()
        [7, 9, 9, 7]
    """
    failed = labels == UNREADABLE_LABEL
    good = ~failed & (labels != OTHER_WORKER_LABEL)
    # A batch that other workers decode entirely has nothing to replace.
    tf.debugging.assert_equal(tf.reduce_any(good) | ~tf.reduce_any(failed), True, _ALL_UNREADABLE)

    def replaced() -> tuple[tf.Tensor, tf.Tensor]:
        count = tf.size(labels)
        after = (tf.range(count)[:, tf.newaxis] + tf.range(count)) % count
        steps = tf.argmax(tf.cast(tf.gather(good, after), tf.int8), axis=1, output_type=tf.int32)
        chosen = (tf.range(count) + steps) % count
        return tf.gather(images, chosen), tf.gather(labels, chosen)

    return tf.cond(tf.reduce_any(failed), replaced, lambda: (images, labels))
