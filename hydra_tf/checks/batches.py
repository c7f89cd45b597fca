"""Checks of images and labels against a model."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from hydra_tf.checks.labels import check_labels, numeric_array
from hydra_tf.checks.models import check_logits, check_unbounded, network_of
from hydra_tf.core.lazy import keras, tf
from hydra_tf.core.pixels import require_pixel_range
from hydra_tf.core.types import Classifier

_class_counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def check_images(x: Any, input_shape: tuple[int | None, ...]) -> None:
    """Check that images fit a model.

    Args:
        x: [batch, ...] images.
        input_shape: the model's input shape, batch axis first.

    Raises:
        ValueError: values that are not numbers, a wrong shape, or pixel values that are NaN or
            outside [0, 1]; see :data:`hydra_tf.core.pixels.ROUNDING`.

    Example:
        >>> check_images(np.zeros((2, 4)), (None, 4))
    """
    x = numeric_array(x, "Images")
    fits = len(x.shape) == len(input_shape) and all(
        want in (None, have) for have, want in zip(x.shape[1:], input_shape[1:], strict=False)
    )
    if not fits:
        raise ValueError(
            f"The model takes images of shape {tuple(input_shape[1:])}, but the data have images "
            f"of shape {tuple(x.shape[1:])}."
        )
    require_pixel_range(x)


def check_use(model: Classifier, x: Any, y: Any) -> None:
    """Check that a model outputs logits, and that a batch fits it.

    The outputs of a model are checked only on its first use.

    Args:
        model: a Keras model or another callable ``(x, training) -> logits``.
        x: [batch, ...] images.
        y: labels; see :func:`check_labels`.

    Raises:
        ValueError: as :func:`require_logits`, :func:`check_logits`, :func:`check_unbounded`,
            :func:`check_images` and :func:`check_labels`.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
        >>> check_use(net, np.zeros((2, 4)), np.array([0, 2]))
    """
    net = network_of(model)
    x = numeric_array(x, "Images")
    check_images(x, getattr(net, "input_shape", (None, *x.shape[1:])))
    if net not in _class_counts and len(x):
        outputs = net(tf.cast(x[:32], tf.float32), training=False)
        check_logits(outputs)
        check_unbounded(net, x[:32], outputs)
        _class_counts[net] = int(outputs.shape[-1])
    if net in _class_counts:  # unknown as long as all batches were empty
        check_labels(y, len(x), _class_counts[net])


def first_batch(x: Any, y: Any = None, limit: int | None = None) -> tuple[Any, Any] | None:
    """Return the first images and labels of training data as numpy arrays.

    Args:
        x: array, tf.data.Dataset of (images, labels), keras.utils.PyDataset, or a generator.
        y: labels when `x` is an array.
        limit: maximum number of samples of an array; all of them when left out.

    Returns:
        (images, labels), or None for a generator, which cannot be read twice.

    Raises:
        ValueError: for a dataset that is empty, does not yield pairs, or yields weights.

    Example:
        >>> images, labels = first_batch(np.zeros((3, 4)), np.zeros(3), limit=2)
        >>> images.shape
        (2, 4)
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
    if len(batch) > 2 and batch[2] is not None:
        raise ValueError(
            "The dataset must yield pairs of (images, labels), without sample weights, because "
            "objectives weight all images alike."
        )
    return np.asarray(batch[0]), np.asarray(batch[1])
