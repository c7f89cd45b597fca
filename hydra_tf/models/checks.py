"""Checks of what a user hands over, made before any work is done."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydra_tf._lazy import keras, tf
from hydra_tf.types import require_pixel_range


def require_logits(model: Any) -> None:
    """Refuse a model that ends in a softmax or sigmoid: losses and attacks need logits.

    Args:
        model: a Keras model.

    Raises:
        ValueError: naming the layer and the mend.

    Example:
        >>> import keras
        >>> require_logits(keras.Sequential([keras.Input([2]), keras.layers.Dense(3)]))
    """
    last = model
    while parts := getattr(last, "operations", None) or getattr(last, "layers", None):
        last = parts[-1]
    # An operation such as keras.ops.softmax is a class of its own, a layer has an activation.
    ends = {type(last).__name__.lower(), getattr(getattr(last, "activation", None), "__name__", "")}
    if ends & {"softmax", "sigmoid", "log_softmax", "logsoftmax", "softmax_v2"}:
        raise ValueError(
            f'The model ends in probabilities (layer "{last.name}"), but robust losses and '
            "attacks need logits; remove the softmax, or give the last layer activation=None."
        )


def check_logits(outputs: Any) -> None:
    """Refuse outputs that are probabilities, wherever in the model they were made.

    Args:
        outputs: [batch, classes] outputs of a model on a batch of images.

    Raises:
        ValueError: when every row is non-negative and sums to 1, or the shape is another.

    Example:
        >>> check_logits(np.array([[2.0, -1.0]]))
    """
    rows = np.asarray(outputs, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ValueError(
            f"The model must output logits of shape [batch, classes] with at least 2 classes, not "
            f"{rows.shape}."
        )
    if rows.size and rows.min() >= 0 and np.allclose(rows.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError(
            "The model outputs probabilities (every row sums to 1), but robust losses and attacks "
            "need logits; remove the softmax."
        )


def check_batch(x: Any, y: Any, input_shape: tuple[int | None, ...], classes: int) -> None:
    """Refuse a batch that the model cannot be trained or judged on.

    Args:
        x: [batch, ...] images.
        y: [batch] or [batch, 1] integer labels, or [batch, classes] one-hot.
        input_shape: the model's input shape, batch axis first.
        classes: number of logits.

    Raises:
        ValueError: wrong shape, pixel values outside [0, 1], or labels out of range.

    Example:
        >>> check_batch(np.zeros((2, 4)), np.array([0, 2]), (None, 4), 3)
    """
    x, y = np.asarray(x), np.asarray(y)
    for values, what in ((x, "Images"), (y, "Labels")):
        if values.dtype.kind in "OSUcmM":
            raise ValueError(f"{what} must be numbers, not of type {values.dtype}.")
    fits = len(x.shape) == len(input_shape) and all(
        want in (None, have) for have, want in zip(x.shape[1:], input_shape[1:], strict=False)
    )
    if not fits:
        raise ValueError(
            f"The model takes images of shape {tuple(input_shape[1:])}, but the data hold "
            f"{tuple(x.shape[1:])}."
        )
    if x.size:
        require_pixel_range(float(x.min()), float(x.max()))
    if y.ndim and len(x) != len(y):
        raise ValueError(f"There are {len(x)} images but {len(y)} labels.")
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


def first_batch(x: Any, y: Any = None, limit: int | None = None) -> tuple[Any, Any] | None:
    """Return the first images and labels of what Keras's `fit` accepts, as numpy arrays.

    Args:
        x: array, tf.data.Dataset of (images, labels), or keras.utils.PyDataset.
        y: labels when `x` is an array.
        limit: at most so many samples of an array; all of them when left out.

    Returns:
        (images, labels), or None for a generator, which cannot be read twice.
    """
    if isinstance(x, tf.data.Dataset):
        batch = next(iter(x.take(1)), None)
        if batch is None:
            raise ValueError("The dataset is empty: it yields no batch.")
    elif isinstance(x, keras.utils.PyDataset):
        batch = x[0]
    elif y is not None:
        batch = (x[:limit], y[:limit])
    else:
        return None
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError("The dataset must yield pairs of (images, labels).")
    return np.asarray(batch[0]), np.asarray(batch[1])
