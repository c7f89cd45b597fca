"""Pixel values: bytes and floats, and their range."""

from __future__ import annotations

from hydra_tf.core.lazy import tf


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


def require_pixel_range(low: float, high: float) -> None:
    """Check that pixel values are in [0, 1].

    Args:
        low: smallest value of a batch.
        high: largest value of a batch.

    Raises:
        ValueError: with the range found and what to do; NaN is out of range.

    Example:
        >>> require_pixel_range(0.0, 1.0)
    """
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"Images must have pixel values in [0, 1], but they span [{low:g}, {high:g}]; "
            "divide 8-bit images by 255 and make any normalisation a layer of the model."
        )
