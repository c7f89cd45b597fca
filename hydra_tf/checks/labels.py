"""Labels: their forms, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf


def is_one_hot(y: Any) -> bool:
    """Whether labels have a row of numbers each, by their shape.

    Example:
        >>> is_one_hot(tf.zeros([2, 3])), is_one_hot(tf.zeros([2, 1])), is_one_hot(tf.zeros([2]))
        (True, False, False)
    """
    return len(y.shape) == 2 and y.shape[-1] != 1


def sparse_labels(y: Any) -> tf.Tensor:
    """Return labels as int32 [batch]; one-hot rows become the index of their one.

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
            f"Labels must be integers of shape [batch] or one-hot of shape [batch, classes], "
            f"not of shape {tuple(y.shape)}."
        )
    return tf.cast(y, tf.int32)


def check_labels(y: Any, images: int, classes: int) -> None:
    """Refuse labels that do not fit the images or the model.

    Args:
        y: [batch] or [batch, 1] integer labels, or [batch, classes] one-hot.
        images: number of images.
        classes: number of logits.

    Raises:
        ValueError: no whole numbers, labels out of range, no one-hot rows, or not as many.

    Example:
        >>> check_labels(np.array([0, 2]), 2, 3)
    """
    y = _numbers(y, "Labels")
    if y.ndim and images != len(y):
        raise ValueError(f"There are {images} images but {len(y)} labels.")
    if y.ndim == 2 and y.shape[1] == classes and classes > 1:
        if not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                "Labels of shape [batch, classes] must be one-hot rows of one 1 each; soft "
                "labels are not supported."
            )
        return
    if y.ndim > 2 or (y.ndim == 2 and y.shape[1] != 1) or y.ndim == 0:
        raise ValueError(
            f"Labels must be integers of shape [batch] or one-hot of shape [batch, {classes}], "
            f"not of shape {tuple(y.shape)}."
        )
    if y.size and not (np.equal(np.mod(y, 1), 0).all() and y.min() >= 0 and y.max() < classes):
        raise ValueError(
            f"Labels must be whole numbers from 0 to {classes - 1}, one for each of the model's "
            f"{classes} logits, but they span [{y.min():g}, {y.max():g}]."
        )


def _numbers(values: Any, what: str) -> np.ndarray[Any, Any]:
    """The values as an array, refused unless they are numbers."""
    array = np.asarray(values)
    if array.dtype.kind in "OSUcmM":
        raise ValueError(f"{what} must be numbers, not of type {array.dtype}.")
    return array
