"""Checks of what a user hands over, made before any work is done."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from hydra_tf._lazy import keras, tf
from hydra_tf.types import require_pixel_range

# What only arranges values; Dropout does nothing to a network that is judged.
_ARRANGING = {"Reshape", "Flatten", "Identity", "Dropout"}
_PROBABILITIES = {"softmax", "sigmoid", "log_softmax", "logsoftmax", "log_sigmoid", "logsigmoid"}
_PROBABILITIES |= {"softmax_v2", "hard_sigmoid", "hardsigmoid"}


def _network(model: Any) -> Any:
    """The net of a :class:`hydra_tf.RobustModel`, which has no output shape of its own."""
    return model if hasattr(model, "output_shape") else getattr(model, "net", model)


def network_of(model: Any) -> Any:
    """Return what is judged of a model: a :class:`hydra_tf.RobustModel`'s net, else itself.

    Raises:
        ValueError: as :func:`require_logits`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> network_of(net) is net
        True
    """
    require_logits(model)
    return _network(model)


def _end(model: Any) -> Any:
    """The last operation of a model that computes, also within the models of which it is made."""
    for part in reversed(
        getattr(model, "operations", None) or getattr(model, "layers", None) or ()
    ):
        idle = type(part).__name__ == "Activation" and part.activation.__name__ == "linear"
        if not idle and type(part).__name__ not in _ARRANGING:
            return _end(part)
    return model


def require_logits(model: Any) -> None:
    """Refuse a model that ends in a softmax or sigmoid: losses and attacks need logits.

    Args:
        model: a Keras model.

    Raises:
        ValueError: naming the layer and the mend; also for several inputs or outputs.

    Example:
        >>> import keras
        >>> require_logits(keras.Sequential([keras.Input([2]), keras.layers.Dense(3)]))
    """
    net = _network(model)
    for what in ("inputs", "outputs"):
        count = len(getattr(net, what, None) or [None])
        if count != 1:
            raise ValueError(
                f"The model has {count} {what}, but robust training and attacks need one input, "
                "the images, and one output, the logits; pass keras.Model(images, logits)."
            )
    last = _end(model)
    # An operation such as keras.ops.softmax is a class of its own, a layer has an activation.
    ends = {type(last).__name__.lower(), getattr(getattr(last, "activation", None), "__name__", "")}
    if ends & _PROBABILITIES:
        raise ValueError(
            f'The model ends in probabilities (layer "{last.name}"), but robust losses and '
            "attacks need logits; remove the softmax, or give the last layer activation=None."
        )


def check_logits(outputs: Any) -> None:
    """Refuse outputs that are probabilities or their logarithms, wherever they were made.

    Args:
        outputs: [batch, classes] outputs of a model on a batch of images.

    Raises:
        ValueError: when every row, or its exponential, is non-negative and sums to 1, or the
            shape is another.

    Example:
        >>> check_logits(np.array([[2.0, -1.0]]))
    """
    array = np.asarray(outputs)
    # Wider, and a few images' logits could sum to 1 by chance; halves are no more exact.
    tolerance = 1e-2 if array.dtype.itemsize == 2 else 1e-5
    rows = array.astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ValueError(
            f"The model must output logits of shape [batch, classes] with at least 2 classes, not "
            f"{rows.shape}."
        )
    if rows.size and rows.min() >= 0 and _all_one(rows, tolerance):
        raise ValueError(
            "The model outputs probabilities (every row sums to 1), but robust losses and attacks "
            "need logits; remove the softmax."
        )
    if rows.size and rows.max() <= 0 and _all_one(np.exp(rows), tolerance):
        raise ValueError(
            "The model outputs logarithms of probabilities (the exponentials of every row sum to "
            "1), but robust losses and attacks need logits; remove the softmax and the logarithm."
        )


def _all_one(rows: np.ndarray[Any, Any], tolerance: float) -> bool:
    """Whether every row sums to 1."""
    return bool(np.all(np.abs(rows.sum(axis=1) - 1.0) <= tolerance))


def check_images(x: Any, input_shape: tuple[int | None, ...]) -> None:
    """Refuse images that the model does not take.

    Args:
        x: [batch, ...] images.
        input_shape: the model's input shape, batch axis first.

    Raises:
        ValueError: no numbers, wrong shape, or pixel values outside [0, 1].

    Example:
        >>> check_images(np.zeros((2, 4)), (None, 4))
    """
    x = _numbers(x, "Images")
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


_class_counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def check_use(model: Any, x: Any, y: Any) -> None:
    """Refuse a model without logits, and a batch that it cannot be trained or judged on.

    The outputs of a model are looked at the first time only.

    Args:
        model: a Keras model or another callable ``(x, training) -> logits``.
        x: [batch, ...] images.
        y: labels; see :func:`check_labels`.

    Raises:
        ValueError: as :func:`require_logits`, :func:`check_logits`, :func:`check_images` and
            :func:`check_labels`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
        >>> check_use(net, np.zeros((2, 4)), np.array([0, 2]))
    """
    net = network_of(model)
    x = _numbers(x, "Images")
    check_images(x, getattr(net, "input_shape", (None, *x.shape[1:])))
    if net not in _class_counts and len(x):
        outputs = net(tf.cast(x[:32], tf.float32), training=False)
        check_logits(outputs)
        _class_counts[net] = int(outputs.shape[-1])
    if net in _class_counts:  # of an unknown model an empty batch says nothing
        check_labels(y, len(x), _class_counts[net])


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
