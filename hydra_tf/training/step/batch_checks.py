"""Checks of batches, also inside a graph, and which samples of a batch are correct."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hydra_tf.checks.batches import check_use, first_batch
from hydra_tf.checks.labels import labels_valid, sparse_labels
from hydra_tf.core.graphs import assertion_sentence
from hydra_tf.core.pixels import clipped_pixels, pixels_valid
from hydra_tf.core.types import Images, Labels, Logits

_UNKNOWN_RANK = (
    "The dataset does not specify the rank of its images or labels; set it in a map with "
    "tf.ensure_shape."
)


@contextlib.contextmanager
def plain_sentences() -> Iterator[None]:
    """Raise a ValueError with the error sentence if a check of a batch fails in a graph."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if sentence := assertion_sentence(str(error)):
            raise ValueError(sentence) from error
        raise


def checked_first_batch(net: keras.Model, x: Any, y: Any = None) -> tuple[Any, Any] | None:
    """Check that the first images and labels of data suit a network, and return them.

    Args:
        net: network that outputs logits.
        x: whole array, or data in batches, of which the first is read.
        y: labels when `x` is an array.

    Returns:
        (images, labels), or None for a generator, which cannot be read twice.

    Raises:
        ValueError: for empty data, images outside [0, 1] or of the wrong shape, labels out of
            range, a network whose outputs are probabilities.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> checked_first_batch(net, tf.zeros([3, 2]), tf.zeros([3]))[1].tolist()
        [0.0, 0.0, 0.0]
    """
    batch = first_batch(x, y)
    if batch is not None and not len(batch[0]):
        raise ValueError("The data are empty: there are no images.")
    if batch is not None:
        check_use(net, *batch)
    return batch


def checked(data: Any, classes: int) -> tuple[Images, Labels]:
    """Check a batch, also within a graph, and return its images, clipped, and integer labels.

    Args:
        data: (images, labels), or as Keras packs them.
        classes: number of logits.

    Raises:
        ValueError: without labels, with sample weights, or of unknown rank; without a graph, also
            for pixels or labels out of range.
        tf.errors.InvalidArgumentError: when run on pixels or labels out of range; see
            :func:`plain_sentences`.

    Example:
        >>> x, y = checked((tf.zeros([2, 3]), tf.constant([[0.0, 1.0], [1.0, 0.0]])), 2)
        >>> y.numpy().tolist()
        [1, 0]
    """
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if weight is not None:
        raise ValueError("RobustModel does not support sample weights.")
    if y is None:
        raise ValueError("RobustModel needs labels, but the data contain none.")
    x, y = tf.cast(x, tf.float32), tf.convert_to_tensor(y)
    if x.shape.rank is None or y.shape.rank is None:
        raise ValueError(_UNKNOWN_RANK)
    checks = [_required(*pixels_valid(x)), _required(*labels_valid(y, classes))]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return clipped_pixels(x), tf.identity(sparse_labels(y))


def _required(valid: tf.Tensor, sentence: str | tf.Tensor) -> tf.Operation | None:
    """Return an operation of a graph that raises the sentence, or raise it if there is no graph."""
    if not tf.executing_eagerly():
        return tf.debugging.Assert(valid, [sentence])
    if not valid:
        raise ValueError(sentence if isinstance(sentence, str) else sentence.numpy().decode())
    return None


def correct(y: Labels, *outputs: Logits) -> tf.Tensor:
    """Return [batch] ones where all given logits predict the label, zeros elsewhere.

    Example:
        >>> correct(tf.constant([1, 1]), tf.constant([[0.0, 1.0], [1.0, 0.0]])).numpy().tolist()
        [1.0, 0.0]
    """
    right = [tf.argmax(logits, axis=-1, output_type=y.dtype) == y for logits in outputs]
    return tf.cast(tf.reduce_all(right, axis=0), tf.float32)
