"""Crops and file formats against pixels worked out by hand; unreadable images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from hydra_tf.data.sets.decoding import Decoder, central_square, decode_colours
from hydra_tf.data.unreadable import UnreadableLog, replace_unreadable

Encoded = Callable[..., bytes]


def _picture(height: int, width: int) -> np.ndarray:
    return np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(256, 300), (300, 256), (256, 256)])
def test_a_short_side_of_256_is_cut_to_the_central_224(
    height: int, width: int, encoded: Encoded
) -> None:
    image = _picture(height, width)
    top, left = (height - 224) // 2, (width - 224) // 2
    result = Decoder(224)(encoded(image), None).numpy()
    np.testing.assert_array_equal(result, image[top : top + 224, left : left + 224])


def test_other_sizes_are_cut_in_the_same_proportion() -> None:
    for height, width, size in ((512, 600, 448), (1, 1, 1), (3, 90_000, 3), (8, 9, 7)):
        corner, side = central_square(tf.constant([height, width]))
        assert int(side) == size
        assert corner.numpy().tolist() == [(height - size) // 2, (width - size) // 2]


def test_a_panorama_and_a_single_pixel_have_a_centre(encoded: Encoded) -> None:
    image = np.zeros((4, 9000, 3), np.uint8)
    image[:, 4000:5000] = 200
    assert Decoder(8)(encoded(image), None).numpy().tolist() == [[[200] * 3] * 8] * 8
    assert Decoder(2)(encoded(_picture(1, 1)), tf.constant([0, 1])).shape == (2, 2, 3)


def test_shrinking_averages_instead_of_leaving_pixels_out(encoded: Encoded) -> None:
    checks = np.indices((256, 256)).sum(0) % 2 * np.uint8(255)
    image = np.repeat(checks[:, :, np.newaxis], 3, axis=2).astype(np.uint8)
    small = Decoder(28)(encoded(image), None).numpy()
    assert np.abs(small.astype(int) - 127.5).max() <= 2


def test_random_cuts_have_the_area_and_the_aspect_of_inception(encoded: Encoded) -> None:
    """Of an image of coordinates a cut shows its own corners."""
    rows, columns = np.indices((200, 240))
    file = encoded(np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8))
    areas, aspects, corners = [], [], set()
    for i in range(200):
        cut = Decoder(100)(file, tf.constant([3, i])).numpy().astype(float)
        height, width = (np.ptp(cut[:, :, axis]) + 1 for axis in (0, 1))
        areas.append(height * width / (200 * 240))
        aspects.append(width / height)
        corners.add((cut[0, 0, 0], cut[0, 0, 1]))
    assert 0.07 < min(areas) < 0.13 and 0.85 < max(areas) <= 1.0
    assert 0.72 < min(aspects) < 0.80 and 1.25 < max(aspects) < 1.37
    assert len(corners) > 150


def test_the_seed_decides_the_cut(encoded: Encoded) -> None:
    file = encoded(_picture(40, 40))
    once, again, other = (Decoder(16)(file, tf.constant([0, s])).numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG"])
def test_every_kind_of_file_becomes_colours(kind: str, encoded: Encoded) -> None:
    image = np.full((9, 7, 3), (240, 16, 64), np.uint8)
    result = decode_colours(encoded(image, kind)).numpy()
    np.testing.assert_allclose(result.astype(int), image, atol=2 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", "L"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "RGBA")),
        *(("BMP", "L"), ("BMP", "RGBA"), ("JPEG", "L"), ("GIF", "L")),
    ],
)
def test_grey_palette_and_alpha_become_colours(kind: str, mode: str, encoded: Encoded) -> None:
    image = np.full((9, 7, 3), 102, np.uint8)  # also in the palette
    np.testing.assert_allclose(decode_colours(encoded(image, kind, mode)), image, atol=1)


def test_the_palette_of_a_bitmap_is_looked_up(encoded: Encoded) -> None:
    image = np.zeros((6, 5, 3), np.uint8)
    image[:3], image[3:] = (255, 0, 0), (0, 0, 255)
    np.testing.assert_array_equal(decode_colours(encoded(image, "BMP", "P")), image)


def test_the_first_frame_of_a_gif_counts() -> None:
    import io

    import PIL.Image

    frames = [PIL.Image.new("RGB", (6, 4), colour) for colour in ("red", "lime")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    result = decode_colours(file.getvalue()).numpy()
    assert result.shape == (4, 6, 3) and result[0, 0].tolist() == [255, 0, 0]


def test_grey_levels_are_one_channel(encoded: Encoded) -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[:] = np.arange(256, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    result = Decoder(224, channels=1)(encoded(image), None).numpy()
    assert result.shape == (224, 224, 1) and result[:, 5, 0].tolist() == list(range(16, 240))


def test_the_next_readable_image_of_a_batch_replaces_an_unreadable_one() -> None:
    images = tf.reshape(tf.range(5), [5, 1, 1, 1])
    for labels, expected in (
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ([-1, -1, 2, 3, -1], [2, 2, 2, 3, 2]),
        ([0, 1, 2, -1, -1], [0, 1, 2, 0, 0]),
    ):
        found, targets = replace_unreadable(images, tf.constant(labels))
        assert targets.numpy().tolist() == tf.reshape(found, [5]).numpy().tolist() == expected
    with pytest.raises(tf.errors.InvalidArgumentError, match="No image of a batch"):
        replace_unreadable(images[:2], tf.constant([-1, -1]))


def test_one_warning_names_the_first_few(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *parts: warnings.append(text % parts))
    unreadable = UnreadableLog()
    for i in (7, 3, 1, 5, 2, 6, 4, 3):
        unreadable.add(f"{i}.jpg".encode())
    assert list(unreadable.warn()) == [] == list(unreadable.warn())
    assert len(warnings) == 1 and warnings[0].startswith("7 images could not be read")
    assert warnings[0].endswith("1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg and 2 more.")
