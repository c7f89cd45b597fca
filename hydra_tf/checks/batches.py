"""Checks of images and labels against a model."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from hydra_tf.checks.labels import _numbers, check_labels
from hydra_tf.checks.models import check_logits, network_of
from hydra_tf.core.lazy import keras, tf
from hydra_tf.core.pixels import require_pixel_range


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
