"""The forms of labels, and checks of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Labels

Array = np.ndarray[Any, Any]

_SPARSE = "A batch has labels that are not whole numbers from 0 to the number of logits minus 1."
_ONE_HOT = (
    "A batch has labels of rank 2 that are not one-hot rows with one column for each logit; soft "
    "labels are not supported."
)


def is_one_hot(y: Any) -> bool:
    """Return whether labels have the shape of one-hot rows.

    Example:
        >>> is_one_hot(tf.zeros([2, 3])), is_one_hot(tf.zeros([2, 1])), is_one_hot(tf.zeros([2]))
        (True, False, False)
    """
    return len(y.shape) == 2 and y.shape[-1] != 1


def sparse_labels(y: Any) -> Labels:
    """Return labels as int32 [batch]; one-hot rows become the index of their 1.

    Args:
        y: [batch] or [batch, 1] integer labels, or [batch, classes] one-hot.

    Raises:
        ValueError: for labels of another shape.

    Example:
        >>> sparse_labels([[0.0, 1.0], [1.0, 0.0]]).numpy().tolist()
        [1, 0]
    """
    y = tf.convert_to_tensor(y)
    if is_one_hot(y):
        y = tf.argmax(y, axis=-1)
    elif len(y.shape) == 2:
        y = y[:, 0]
    if len(y.shape) != 1:
        raise ValueError(
            "Labels must be integers of shape [batch] or one-hot of shape [batch, classes], "
            f"not of shape {tuple(y.shape)}."
        )
    return tf.cast(y, tf.int32)


def labels_valid(y: tf.Tensor, classes: int) -> tuple[tf.Tensor, str]:
    """Return whether labels are valid, for use in a graph, and the error sentence if not.

    Args:
        y: labels as in :func:`sparse_labels`, a tensor of known rank.
        classes: number of logits.

    Returns:
        A boolean scalar, and the error sentence.

    Example:
        >>> valid, sentence = labels_valid(tf.constant([0, 3]), 3)
        >>> bool(valid)
        False
    """
    if is_one_hot(y):
        rows = tf.cast(y, tf.float32)
        single = tf.reduce_all((rows == 0) | (rows == 1)) & tf.reduce_all(
            tf.reduce_sum(rows, 1) == 1
        )
        return single & (tf.shape(y)[1] == classes), _ONE_HOT
    labels = sparse_labels(y)
    whole = tf.cast(labels, y.dtype) == tf.reshape(y, [-1])  # the cast would turn 1.5 into 1
    return tf.reduce_all(whole & (labels >= 0) & (labels < classes)), _SPARSE


def check_labels(y: Any, images: int, classes: int) -> None:
    """Check that labels match the images and the model.

    Args:
        y: [batch] or [batch, 1] integer labels, or [batch, classes] one-hot.
        images: number of images.
        classes: number of logits.

    Raises:
        ValueError: values that are not integers, labels out of range, rows that are not one-hot,
            or another number of labels than images.

    Example:
        >>> check_labels(np.array([0, 2]), 2, 3)
    """
    y = numeric_array(y, "Labels")
    if y.ndim and images != len(y):
        raise ValueError(f"There are {images} images but {len(y)} labels.")
    if y.ndim == 2 and y.shape[1] == classes and classes > 1:
        if not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                "Labels of shape [batch, classes] must be one-hot, with a single 1 in each row; "
                "soft labels are not supported."
            )
        return
    if y.ndim > 2 or (y.ndim == 2 and y.shape[1] != 1) or y.ndim == 0:
        raise ValueError(
            f"Labels must be integers of shape [batch] or one-hot of shape [batch, {classes}], "
            f"not of shape {tuple(y.shape)}."
        )
    if np.isnan(y).any():
        raise ValueError(
            f"Labels must be whole numbers from 0 to {classes - 1}, but one of them is NaN."
        )
    if y.size and not (np.equal(np.mod(y, 1), 0).all() and y.min() >= 0 and y.max() < classes):
        raise ValueError(
            f"Labels must be whole numbers from 0 to {classes - 1}, one for each of the model's "
            f"{classes} logits, but they span [{y.min():.9g}, {y.max():.9g}]."
        )


def numeric_array(values: Any, subject: str) -> Array:
    """Return values as an array.

    Args:
        values: anything that NumPy makes an array of.
        subject: first word of the error.

    Raises:
        ValueError: for values that are not numbers.

    Example:
        >>> numeric_array([0, 1], "Labels").tolist()
        [0, 1]
    """
    array = np.asarray(values)
    if array.dtype.kind in "OSUcmM":
        raise ValueError(f"{subject} must be numbers, not of type {array.dtype}.")
    return array
