"""Checks of what bounds are computed for: model, images, radius and labels."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from hydra_tf.bounds.rounding import TINY, U
from hydra_tf.checks.labels import check_labels, is_one_hot, sparse_labels
from hydra_tf.core.lazy import keras, tf
from hydra_tf.core.pixels import clipped_pixels, require_pixel_range
from hydra_tf.core.types import Images, Interval, Labels, require_linf_radius

Clip: TypeAlias = tuple[float, float] | None
Radius: TypeAlias = "float | tf.Tensor"


def checked_inputs(
    net: keras.Model, x: Images, epsilon: Radius, clip: Clip
) -> tuple[Images, tf.Tensor]:
    """Check the model, the images and the radius; return the images, clipped, and the radius."""
    shape = net.outputs[0].shape
    if len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
        raise ValueError(
            "Bounds need a model that outputs logits of shape [batch, classes] with at least 2 "
            f"classes, not {tuple(shape)}."
        )
    expected = net.inputs[0].shape[1:]
    fits = len(x.shape) == len(expected) + 1 and all(
        want in (None, have) or have is None
        for have, want in zip(x.shape[1:], expected, strict=True)
    )
    if not fits:
        raise ValueError(
            f"The model takes images of shape {tuple(expected)}, not {tuple(x.shape[1:])}."
        )
    _check_radius(epsilon, clip)
    if tf.executing_eagerly():
        require_pixel_range(x.numpy(), *(clip or (-np.inf, np.inf)))
        x = x if clip is None else clipped_pixels(x, *clip)
    return x, tf.cast(epsilon, tf.float32)


def pixel_range(clip: Clip) -> Clip:
    """Return the range of pixel values as two floats."""
    if clip is None:
        return None
    limits = np.asarray(clip)
    if limits.shape != (2,) or limits.dtype.kind not in "iuf" or not limits[0] < limits[1]:
        raise ValueError(f"clip must be (smallest, largest) pixel value or None, not {clip}.")
    return float(limits[0]), float(limits[1])


def _check_radius(epsilon: Radius, clip: Clip) -> None:
    """Check the radius as far as its value is known before the graph is run."""
    if tf.is_tensor(epsilon) or isinstance(epsilon, np.ndarray):
        shape = tuple(tf.convert_to_tensor(epsilon).shape)
        if shape != ():
            raise ValueError(
                f"epsilon must be a number or a scalar tensor, not of shape {shape}; bound images "
                "of another radius in another call."
            )
        if not tf.executing_eagerly():
            return
        epsilon = float(epsilon)
    require_linf_radius(epsilon, clip)


def class_indices(y: Labels, x: Images, classes: int) -> Labels:
    """Check labels (in a graph, not their values), and return them as int32 [batch]."""
    y = tf.convert_to_tensor(y)
    if not (is_one_hot(y) or y.dtype.is_integer):
        raise TypeError(f"Labels must be whole numbers, not of type {y.dtype.name}.")
    if tf.executing_eagerly():
        check_labels(y, x.shape[0], classes)
        return sparse_labels(y)
    if is_one_hot(y) and y.shape[1] != classes:
        raise ValueError(
            f"Labels must be integers of shape [batch] or one-hot of shape [batch, {classes}], "
            f"not of shape {tuple(y.shape)}."
        )
    if None not in (x.shape[0], y.shape[0]) and x.shape[0] != y.shape[0]:
        raise ValueError(f"There are {x.shape[0]} images but {y.shape[0]} labels.")
    return sparse_labels(y)


def input_box(x: Images, epsilon: tf.Tensor, clip: Clip, rounding: bool) -> Interval:
    """Return the interval of the input, widened by the rounding errors of an attack."""
    if rounding:
        epsilon += 4 * U * (tf.abs(x) + epsilon) + TINY
    lower, upper = x - epsilon, x + epsilon
    if clip is None:
        return Interval(lower, upper)
    # In a graph, where values are not checked, an image outside the range stays in its interval.
    lower = tf.minimum(tf.maximum(lower, clip[0]), x)
    return Interval(lower, tf.maximum(tf.minimum(upper, clip[1]), x))
