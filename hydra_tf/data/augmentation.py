"""Augmentation of training batches: pure functions of (images, seed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra_tf.core.lazy import tf

Augment = Callable[[Any, Any], Any]


def check_crop(padding: int) -> None:
    """Refuse a padding that is negative.

    Raises:
        ValueError: saying what is expected.

    Example:
        >>> check_crop(4)
    """
    if padding < 0:
        raise ValueError(
            f"crop is the number of pixels to pad by, at least 0 (no cropping), not {padding}."
        )


def random_crop(images: tf.Tensor, seed: tf.Tensor, padding: int = 4) -> tf.Tensor:
    """Pad with 0 on every side and cut each image back to its size at a random place.

    Args:
        images: [batch, height, width, channels].
        seed: integers of shape [2]; the same seed gives the same crops.
        padding: pixels of padding, and so the largest shift either way.

    Returns:
        Images of the same shape and dtype.

    Example:
        >>> random_crop(tf.ones([1, 2, 2, 1]), seed=[0, 1], padding=0).numpy().sum().item()
        4.0
    """
    shape = tf.shape(images)
    sides = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
    padded = tf.pad(images, sides)
    corners = tf.random.stateless_uniform(
        [shape[0], 2], seed, minval=0, maxval=2 * padding + 1, dtype=tf.int32
    )
    rows = corners[:, :1] + tf.range(shape[1])
    columns = corners[:, 1:] + tf.range(shape[2])
    cropped = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: [batch, height, width, channels].
        seed: integers of shape [2]; the same seed flips the same images.

    Returns:
        Images of the same shape and dtype.

    Example:
        >>> random_flip(tf.zeros([3, 2, 2, 1]), seed=[0, 1]).shape
        TensorShape([3, 2, 2, 1])
    """
    coins = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < 0.5
    return tf.where(coins, images[:, :, ::-1], images)


@dataclass(frozen=True)
class CropAndFlip:
    """Random crop and flip of a batch, of whatever dtype it is.

    Args:
        padding: see :func:`random_crop`; 0 for no cropping.
        flip: whether to mirror at random.

    Example:
        >>> CropAndFlip(1, flip=True)(tf.zeros([3, 2, 2, 1], tf.uint8), [0, 1]).dtype.name
        'uint8'
    """

    padding: int
    flip: bool
    keeps_bytes: ClassVar[bool] = True

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return images of the same shape and dtype.

        Args:
            images: [batch, height, width, channels].
            seed: integers of shape [2].
        """
        if self.padding:
            images = random_crop(images, seed, self.padding)
        if self.flip:
            images = random_flip(images, tf.random.fold_in(seed, 1))
        return images


def crop_and_flip(padding: int, flip: bool) -> Augment | None:
    """Return the augmentation made of the two, or None when neither is asked for.

    Args:
        padding: see :func:`random_crop`; 0 for no cropping.
        flip: whether to mirror at random.

    Raises:
        ValueError: for a negative padding.

    Example:
        >>> crop_and_flip(0, False) is None
        True
    """
    check_crop(padding)
    return CropAndFlip(padding, flip) if padding or flip else None
