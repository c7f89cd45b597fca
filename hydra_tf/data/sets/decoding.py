"""Decoding of image files to square images of one size."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.core.lazy import tf

# Photographs are tested at 224 of 256 pixels (Krizhevsky et al., NeurIPS 2012).
_CENTRE = 224 / 256


def check_size(size: int) -> None:
    """Check that an image size is at least 1.

    Raises:
        ValueError: for a smaller size.

    Example:
        >>> check_size(224)
    """
    if size < 1:
        raise ValueError(
            f"size must be the height and width of the images, at least 1, not {size}."
        )


@dataclass(frozen=True)
class Decoder:
    """Decodes an image file and crops it to a square.

    With a seed it takes a random crop as for Inception (Szegedy et al., CVPR 2015): 8 to 100% of
    the area, at an aspect ratio between 3/4 and 4/3. Without a seed it takes the centre crop that
    remains when the short side is resized to 256/224 of `size`; cropping comes first, so that a
    panorama needs no more memory than a square. Both are resized with antialiasing.

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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the result."""
        return self.size, self.size, self.channels

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Return uint8 [size, size, channels].

        Args:
            encoded: scalar string: JPEG, PNG, BMP, or GIF, of which the first frame is used.
            seed: integers of shape [2] for a random crop; None for the centre crop.

        Raises:
            tf.errors.InvalidArgumentError: when the bytes are not a complete image.
        """
        image = decode_colours(encoded)
        if seed is None:
            begin, extent = central_square(tf.shape(image)[:2])
            image = image[begin[0] : begin[0] + extent, begin[1] : begin[1] + extent]
        else:
            # The whole image is the object, and the crop need not cover any of it.
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
        encoded: scalar string: JPEG, PNG, BMP, or GIF, of which the first frame is used.

    Raises:
        tf.errors.InvalidArgumentError: when the bytes are not a complete image.

    Example:
        >>> decode_colours(tf.io.encode_png(tf.zeros([2, 5, 1], tf.uint8))).shape
        TensorShape([2, 5, 3])
    """

    def decode_bitmap() -> tf.Tensor:
        # Unlike the other decoders, decode_bmp neither converts channels nor applies a palette.
        image = tf.io.decode_bmp(encoded, channels=0)
        return tf.cond(
            tf.shape(image)[2] == 1,
            lambda: tf.gather(_bitmap_palette(encoded), tf.cast(image[:, :, 0], tf.int32)),
            lambda: image[:, :, :3],
        )

    def decode_other() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    is_bitmap = tf.strings.substr(encoded, 0, 2) == b"BM"
    return tf.ensure_shape(tf.cond(is_bitmap, decode_bitmap, decode_other), [None, None, 3])


def _bitmap_palette(encoded: tf.Tensor) -> tf.Tensor:
    """Return the palette of a BMP file, uint8 [colours, 3], between its header and pixels."""
    words = tf.io.decode_raw(tf.strings.substr(encoded, 10, 8), tf.int32)  # pixels, header size
    begin = 14 + words[1]
    stored = tf.io.decode_raw(tf.strings.substr(encoded, begin, words[0] - begin), tf.uint8)
    return tf.reshape(stored, [-1, 4])[:, 2::-1]  # stored as blue, green, red, unused


def central_square(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return corner (row, column) and side of the centre crop.

    Args:
        shape: int32 [2], height and width of an image.

    Example:
        >>> corner, side = central_square(tf.constant([256, 356]))
        >>> corner.numpy().tolist(), int(side)
        ([16, 66], 224)
    """
    short = tf.cast(tf.reduce_min(shape), tf.float32)
    side = tf.maximum(1, tf.cast(tf.round(short * _CENTRE), tf.int32))
    return (shape - side) // 2, side
