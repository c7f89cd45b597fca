"""Images as bytes and as numbers."""

from __future__ import annotations

from hydra_tf.core.lazy import tf


def unit_floats(images: tf.Tensor) -> tf.Tensor:
    """Return float32 images in [0, 1], of bytes if they are uint8.

    Args:
        images: uint8 in [0, 255], or floats in [0, 1].

    Example:
        >>> unit_floats(tf.constant([51, 255], tf.uint8)).numpy().round(3).tolist()
        [0.2, 1.0]
    """
    if images.dtype == tf.uint8:
        # Of a quotient by a constant a graph may make a product, which rounds otherwise.
        return tf.math.divide_no_nan(tf.cast(images, tf.float32), 255.0)
    return tf.cast(images, tf.float32)


def require_pixel_range(low: float, high: float) -> None:
    """Refuse images whose values span more than [0, 1].

    Args:
        low: least value of a batch.
        high: largest value of a batch.

    Raises:
        ValueError: with the range found and what to do; NaN is out of range.

    Example:
        >>> require_pixel_range(0.0, 1.0)
    """
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"Images must hold pixel values in [0, 1], but they span [{low:g}, {high:g}]; "
            "divide 8-bit images by 255 and make any normalisation a layer of the model."
        )
