"""Pixel values: bytes and floats, and their range."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf

# How far pixels may lie outside their range because of rounding, relative to its length.
ROUNDING = 1e-6

_NAN = "A batch has images with pixels that are NaN; correct such images or leave them out."
_INFINITE = "A batch has images with infinite pixels; correct such images or leave them out."
_OUTSIDE = (
    "A batch has images with values outside [0, 1]; divide 8-bit images by 255 and make any "
    "normalisation a layer of the model."
)


def unit_floats(images: tf.Tensor) -> tf.Tensor:
    """Return float32 images in [0, 1]; uint8 images are divided by 255.

    Args:
        images: uint8 in [0, 255], or floats in [0, 1].

    Example:
        >>> unit_floats(tf.constant([51, 255], tf.uint8)).numpy().round(3).tolist()
        [0.2, 1.0]
    """
    if images.dtype == tf.uint8:
        # A graph may turn division by a constant into multiplication, which rounds differently.
        return tf.math.divide_no_nan(tf.cast(images, tf.float32), 255.0)
    return tf.cast(images, tf.float32)


def clipped_pixels(images: Any, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Return float32 images whose pixels are clipped to their range.

    Resizing may round pixels to a few float32 steps outside the range. The checks of this module
    tolerate :data:`ROUNDING`; all callers clip the images, so that the model, attacks and bounds
    get the same ones.

    Args:
        images: [batch, ...] images that have been checked.
        low: smallest pixel value.
        high: largest pixel value.

    Example:
        >>> clipped_pixels(tf.constant([0.5, 1.0000002])).numpy().tolist()
        [0.5, 1.0]
    """
    return tf.clip_by_value(tf.cast(images, tf.float32), low, high)


def require_pixel_range(images: np.ndarray[Any, Any], low: float = 0.0, high: float = 1.0) -> None:
    """Check that pixels lie in their range, apart from :data:`ROUNDING`.

    Args:
        images: [batch, ...].
        low: smallest pixel value; minus infinity for any.
        high: largest pixel value; infinity for any.

    Raises:
        ValueError: for a pixel that is NaN or outside the range, with what was found.

    Example:
        >>> require_pixel_range(np.array([[0.0, 1.0000002]]))
    """
    if not images.size:
        return
    least, largest = float(images.min()), float(images.max())
    slack = ROUNDING * (high - low) if np.isfinite(high - low) else 0.0
    if least >= low - slack and largest <= high + slack:
        return
    unlimited = np.isinf(high - low)
    wanted = "numbers" if unlimited else f"numbers in [{low:.9g}, {high:.9g}]"
    for what, found in (("NaN", np.isnan(images)), ("infinite", np.isinf(images))):
        if found.any():
            first = int(np.argmax(found.reshape(len(found), -1).any(axis=1)))
            raise ValueError(
                f"Image {first}, counted from 0, has a pixel that is {what}, but pixel values must "
                f"be {wanted}; correct such images or leave them out."
            )
    advice = (
        "divide 8-bit images by 255 and make any normalisation a layer of the model"
        if (low, high) == (0, 1)
        else "scale them, or pass their range as clip"
    )
    raise ValueError(
        f"Images must have pixel values in [{low:.9g}, {high:.9g}], but they span "
        f"[{least:.9g}, {largest:.9g}]; {advice}."
    )


def pixels_valid(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return whether float32 pixels lie in [0, 1], apart from :data:`ROUNDING`, in a graph.

    Returns:
        A boolean scalar, and the error sentence if it is false.

    Example:
        >>> valid, sentence = pixels_valid(tf.constant([[0.5, float("nan")]]))
        >>> bool(valid), b"NaN" in sentence.numpy()
        (False, True)
    """
    valid = tf.reduce_all((images >= -ROUNDING) & (images <= 1.0 + ROUNDING))
    infinite = tf.where(tf.reduce_any(tf.math.is_inf(images)), _INFINITE, _OUTSIDE)
    return valid, tf.where(tf.reduce_any(tf.math.is_nan(images)), _NAN, infinite)
