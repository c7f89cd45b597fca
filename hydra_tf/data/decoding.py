"""From the bytes of an image file to pixels: decoding, cutting, and what cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from absl import logging

from hydra_tf.core.lazy import tf

UNREADABLE = -1  # the label of an image that could not be read, until a good one replaces it
ELSEWHERE = -2  # the label of an image that another worker decodes
GONE = (
    "A record file of the data set cannot be opened; see the line above for its name, and whether "
    "the disk is still there."
)
NOT_ONE = (
    "Not one image of a batch could be read; see the warnings for their names, and whether the "
    "disk is still there."
)
_SHOWN = 5  # names in a warning
# Photographs are tested at 224 of 256 pixels (Krizhevsky et al., NeurIPS 2012).
_CENTRE = 224 / 256


def check_size(size: int) -> None:
    """Refuse an image size below 1.

    Raises:
        ValueError: saying what is expected.

    Example:
        >>> check_size(224)
    """
    if size < 1:
        raise ValueError(f"size is the height and width of the images, at least 1, not {size}.")


@dataclass(frozen=True)
class Decoder:
    """Decodes an image file and cuts it to a square.

    With a seed the cut is that of Inception (Szegedy et al., CVPR 2015): 8 to 100% of the area,
    at an aspect ratio between 3/4 and 4/3. Without, it is the centre that is left when the
    short side is resized to 256/224 of `size`; the cut comes first, so that a panorama needs no
    more memory than a square. Either is resized with antialiasing.

    Args:
        size: height and width of the result.
        channels: 3, or 1 for grey levels.

    Example:
        >>> file = tf.io.encode_png(tf.fill([30, 40, 3], tf.constant(7, tf.uint8)))
        >>> image = Decoder(16)(file, None)
        >>> image.shape, image.dtype.name, int(tf.reduce_min(image))
        (TensorShape([16, 16, 3]), 'uint8', 7)
    """

    size: int
    channels: int = 3

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Return uint8 [size, size, channels].

        Args:
            encoded: scalar string: JPEG, PNG, BMP, or GIF, of which the first frame counts.
            seed: integers of shape [2] for a cut at random; None for the centre.

        Raises:
            tf.errors.InvalidArgumentError: when the bytes are no whole image.
        """
        image = decode_colours(encoded)
        if seed is None:
            begin, extent = centre(tf.shape(image)[:2])
            image = image[begin[0] : begin[0] + extent, begin[1] : begin[1] + extent]
        else:
            # All of the image counts as the object, and none of it has to be in the cut.
            begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
                tf.shape(image),
                tf.zeros([0, 0, 4]),
                seed,
                min_object_covered=0.0,
                aspect_ratio_range=(3 / 4, 4 / 3),
                area_range=(0.08, 1.0),
                max_attempts=10,
                use_image_if_no_bounding_boxes=True,
            )
            image = tf.slice(image, begin, extent)
        image = tf.image.resize(image, [self.size, self.size], antialias=True)
        image = tf.saturate_cast(tf.round(image), tf.uint8)
        return tf.image.rgb_to_grayscale(image) if self.channels == 1 else image


def decode_colours(encoded: tf.Tensor) -> tf.Tensor:
    """Return uint8 [height, width, 3] of an image file.

    Args:
        encoded: scalar string: JPEG, PNG, BMP, or GIF, of which the first frame counts.

    Raises:
        tf.errors.InvalidArgumentError: when the bytes are no whole image.

    Example:
        >>> decode_colours(tf.io.encode_png(tf.zeros([2, 5, 1], tf.uint8))).shape
        TensorShape([2, 5, 3])
    """

    def bitmap() -> tf.Tensor:
        # Of the four decoders this one alone neither converts nor looks up a palette.
        image = tf.io.decode_bmp(encoded, channels=0)
        return tf.cond(
            tf.shape(image)[2] == 1,
            lambda: tf.gather(_bitmap_palette(encoded), tf.cast(image[:, :, 0], tf.int32)),
            lambda: image[:, :, :3],
        )

    def other() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    image = tf.cond(tf.strings.substr(encoded, 0, 2) == b"BM", bitmap, other)
    return tf.ensure_shape(image, [None, None, 3])


def _bitmap_palette(encoded: tf.Tensor) -> tf.Tensor:
    """The colours uint8 [colours, 3] of a BMP file, which stand between header and pixels."""
    words = tf.io.decode_raw(tf.strings.substr(encoded, 10, 8), tf.int32)  # pixels, header size
    begin = 14 + words[1]
    stored = tf.io.decode_raw(tf.strings.substr(encoded, begin, words[0] - begin), tf.uint8)
    return tf.reshape(stored, [-1, 4])[:, 2::-1]  # blue, green, red and nothing


def centre(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return corner (row, column) and side of the central square that is tested.

    Args:
        shape: int32 [2], height and width of an image.

    Example:
        >>> corner, side = centre(tf.constant([256, 356]))
        >>> corner.numpy().tolist(), int(side)
        ([16, 66], 224)
    """
    short = tf.cast(tf.reduce_min(shape), tf.float32)
    side = tf.maximum(1, tf.cast(tf.round(short * _CENTRE), tf.int32))
    return (shape - side) // 2, side


class Unreadable:
    """Collects the names of images that cannot be read, for one warning at the end of a pass.

    Example:
        >>> unreadable = Unreadable()
        >>> unreadable.note(b"cat/3.jpg")
        True
        >>> list(unreadable.report())  # logs, and yields nothing
        []
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def note(self, name: Any) -> bool:
        """Remember a name; a graph needs some value in return."""
        self._names.add(bytes(name).decode(errors="replace"))
        return True

    def report(self) -> Iterator[Any]:
        """Warn of the names noted since the last report; yields nothing."""
        names, self._names = sorted(self._names), set()
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            logging.warning(
                "%d of the images could not be read in this pass, and the next good ones stood in "
                "for them: %s%s.",
                len(names),
                ", ".join(names[:_SHOWN]),
                more,
            )
        yield from ()


def attempt(
    read: Callable[[], tuple[tf.Tensor, tf.Tensor]],
    decoder: Decoder,
    name: tf.Tensor,
    unreadable: Unreadable,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what `read` does, or a black image labelled UNREADABLE when it fails.

    Args:
        read: () -> (image, label), in a graph.
        decoder: the one that `read` uses.
        name: scalar string, noted in case of a failure.
        unreadable: where it is noted.

    Returns:
        Image uint8 [size, size, channels] and label int64.
    """
    # A graph catches no errors; a dataset of one element drops it when it fails.
    one = tf.data.Dataset.from_tensors(0).map(lambda _: read()).ignore_errors()
    black = tf.zeros([decoder.size, decoder.size, decoder.channels], tf.uint8)
    none = tf.data.Dataset.from_tensors((black, tf.constant(UNREADABLE, tf.int64)))
    image, label = one.concatenate(none).take(1).get_single_element()
    tf.cond(
        label == UNREADABLE,
        lambda: tf.ensure_shape(tf.numpy_function(unreadable.note, [name], tf.bool), []),
        lambda: True,
    )
    return tf.ensure_shape(image, black.shape), label


def replace_unreadable(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Put the next good image of a batch, round its end, for each one that could not be read.

    Args:
        images: [batch, height, width, channels].
        labels: [batch], UNREADABLE where an image could not be read, ELSEWHERE where another
            worker reads it.

    Raises:
        tf.errors.InvalidArgumentError: when there is no good image for one that could not be read.

    Example:
        >>> images = tf.reshape([1.0, 0.0, 3.0, 0.0], [4, 1, 1, 1])
        >>> replace_unreadable(images, tf.constant([7, -1, 9, -1]))[1].numpy().tolist()
        [7, 9, 9, 7]
    """
    unread = labels == UNREADABLE
    good = ~unread & (labels != ELSEWHERE)
    # Where all are read elsewhere none is missed.
    tf.debugging.assert_equal(tf.reduce_any(good) | ~tf.reduce_any(unread), True, NOT_ONE)

    def replaced() -> tuple[tf.Tensor, tf.Tensor]:
        count = tf.size(labels)
        after = (tf.range(count)[:, tf.newaxis] + tf.range(count)) % count
        steps = tf.argmax(tf.cast(tf.gather(good, after), tf.int8), axis=1, output_type=tf.int32)
        chosen = (tf.range(count) + steps) % count
        return tf.gather(images, chosen), tf.gather(labels, chosen)

    return tf.cond(tf.reduce_any(unread), replaced, lambda: (images, labels))
