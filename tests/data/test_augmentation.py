"""Crops and flips, each against all outcomes worked out by hand."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from hydra_tf.data.augmentation import crop_and_flip, random_crop, random_flip


def _images(count: int) -> np.ndarray:
    """Different images of 5x4x2 without a 0, so that padding can be told from them."""
    return np.arange(1, 1 + count * 40, dtype=np.float32).reshape(count, 5, 4, 2)


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    images = _images(200)
    cropped = random_crop(tf.constant(images), seed=[1, 2], padding=2).numpy()
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    met = set()
    for image, whole in zip(cropped, padded, strict=True):
        places = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(image, whole[row : row + 5, column : column + 4])
        ]
        assert len(places) == 1
        met.update(places)
    assert len(met) == 25  # all shifts from -2 to 2, both ways


def test_a_flip_mirrors_left_to_right_half_of_the_time() -> None:
    images = _images(400)
    flipped = random_flip(tf.constant(images), seed=[1, 2]).numpy()
    mirrored = [np.array_equal(f, x[:, ::-1]) for f, x in zip(flipped, images, strict=True)]
    same = [np.array_equal(f, x) for f, x in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 160 <= sum(mirrored) <= 240  # four standard deviations of a fair coin


def test_the_seed_decides() -> None:
    augment = crop_and_flip(2, flip=True)
    assert augment is not None
    images = tf.constant(_images(20))
    once, again, other = (augment(images, [7, s]).numpy() for s in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_shape_stays_known_in_a_graph() -> None:
    augment = crop_and_flip(1, flip=True)
    traced = tf.function(augment).get_concrete_function(
        tf.TensorSpec([None, 5, 4, 2]), tf.TensorSpec([2], tf.int64)
    )
    assert traced.structured_outputs.shape.as_list() == [None, 5, 4, 2]
