"""Checks of batches within a graph, and what a batch has right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hydra_tf.checks.labels import is_one_hot, sparse_labels
from hydra_tf.core.graphs import asserted

_PIXELS = (
    "A batch holds images with values outside [0, 1]; divide 8-bit images by 255 and make any "
    "normalisation a layer of the model."
)
_LABELS = "A batch holds labels that are not whole numbers from 0 to the number of logits less 1."
_ONE_HOT = (
    "A batch holds labels of two axes that are not one-hot rows of one 1 each, as wide as the "
    "logits; soft labels are not supported."
)
_AXES = (
    "The dataset does not say how many axes its images or labels have; set them in a map with "
    "tf.ensure_shape."
)


@contextlib.contextmanager
def plain_sentences() -> Iterator[None]:
    """Raise what a batch in the middle of an epoch got wrong as the sentence it is."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if sentence := asserted(str(error)):
            raise ValueError(sentence) from error
        raise


def checked(data: Any, classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the images and integer labels of a batch, to be had only if they are right.

    Args:
        data: (images, labels), or as Keras packs them.
        classes: number of logits.

    Raises:
        ValueError: without labels, with sample weights, or of an unknown number of axes.
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
        raise ValueError("RobustModel needs labels; the data hold none.")
    x, given = tf.cast(x, tf.float32), tf.convert_to_tensor(y)
    if x.shape.rank is None or given.shape.rank is None:
        raise ValueError(_AXES)
    in_range = tf.reduce_all((x >= 0.0) & (x <= 1.0))
    right, sentence = _labels_right(given, classes)
    checks = [tf.debugging.Assert(in_range, [_PIXELS]), tf.debugging.Assert(right, [sentence])]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x), tf.identity(sparse_labels(given))


def _labels_right(y: tf.Tensor, classes: int) -> tuple[tf.Tensor, str]:
    """Whether labels are in order as they were given, and the sentence for others."""
    if is_one_hot(y):
        rows = tf.cast(y, tf.float32)
        single = tf.reduce_all((rows == 0) | (rows == 1)) & tf.reduce_all(
            tf.reduce_sum(rows, 1) == 1
        )
        return single & (tf.shape(y)[1] == classes), _ONE_HOT
    labels = sparse_labels(y)
    whole = tf.cast(labels, y.dtype) == tf.reshape(y, [-1])  # once converted 1.5 looks like 1
    return tf.reduce_all(whole & (labels >= 0) & (labels < classes)), _LABELS


def correct(y: tf.Tensor, *outputs: tf.Tensor) -> tf.Tensor:
    """Return [batch] ones where all the logits are right, zeros elsewhere.

    Example:
        >>> correct(tf.constant([1, 1]), tf.constant([[0.0, 1.0], [1.0, 0.0]])).numpy().tolist()
        [1.0, 0.0]
    """
    right = [tf.argmax(logits, axis=-1, output_type=y.dtype) == y for logits in outputs]
    return tf.cast(tf.reduce_all(right, axis=0), tf.float32)
