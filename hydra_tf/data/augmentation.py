"""Augmentation of training batches: pure functions of (images, seed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Seed

Augment = Callable[[Images, Seed], Images]


def check_crop(padding: int) -> None:
    """Check that a padding is at least 0.

    Raises:
        ValueError: for a negative padding.

    Example:
        >>> check_crop(4)
    """
    if padding < 0:
        raise ValueError(
            f"crop must be a number of pixels to pad by, at least 0 (no cropping), not {padding}."
        )


def random_crop(images: tf.Tensor, seed: tf.Tensor, padding: int = 4) -> tf.Tensor:
    """Pad with 0 on every side and crop each image to its size at a random position.

    Args:
        images: [batch, height, width, channels].
        seed: integers of shape [2]; the same seed gives the same crops.
        padding: pixels of padding, which is the largest shift in each direction.

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
    """Random crop and flip of a batch of any dtype.

    Args:
        padding: see :func:`random_crop`; 0 for no cropping.
        flip: whether to mirror images at random.

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
    """Return an augmentation that crops and flips, or None if it would do neither.

    Args:
        padding: see :func:`random_crop`; 0 for no cropping.
        flip: whether to mirror images at random.

    Raises:
        ValueError: for a negative padding.

    Example:
        >>> crop_and_flip(0, False) is None
        True
    """
    check_crop(padding)
    return CropAndFlip(padding, flip) if padding or flip else None
