"""The transpose of a strided convolution of few channels, where TensorFlow's own is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra_tf.core.lazy import tf

Transpose = Callable[[Any, Any, "list[int]"], Any]

# With more input channels TensorFlow's own transposed convolution is as fast on CPUs.
_FEW = 8


def transpose_of(how: dict[str, Any], shape: tuple[int, ...], groups: int) -> Transpose | None:
    """Return a fast transpose for a convolution, or None where there is no need of one.

    Args:
        how: strides, padding, dilation_rate and data_format of a Keras convolution.
        shape: of its kernel.
        groups: of its channels; there is no fast transpose of more than one.

    Returns:
        A function of coefficients [n, height, width, filters], the kernel, and the sizes of
        the convolution's input, that returns coefficients [n, *sizes].

    Example:
        >>> how = {"strides": (1, 1), "dilation_rate": (1, 1), "data_format": "channels_last"}
        >>> transpose_of(how, (3, 3, 1, 4), groups=1) is None
        True
    """
    strides = how["strides"]
    whole = groups == 1 and set(how["dilation_rate"]) == {1}
    plain = whole and how["data_format"] == "channels_last"
    if not (plain and len(strides) == 2 and strides[0] == strides[1] > 1 and shape[2] < _FEW):
        return None

    @tf.custom_gradient
    def apply(rows: Any, kernel: Any, sizes: Any) -> tuple[Any, Callable[..., Any]]:
        size = [int(each) for each in tf.get_static_value(sizes)]

        def gradient(upstream: Any) -> tuple[Any, Any, None]:
            options = {"strides": [1, *strides, 1], "padding": how["padding"].upper()}
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=upstream, filter_sizes=shape, out_backprop=rows, **options
            )
            return tf.nn.conv2d(upstream, kernel, **options), of_kernel, None

        return _interleaved(rows, kernel, strides[0], how["padding"], size), gradient

    return lambda rows, kernel, sizes: apply(rows, kernel, tf.constant(sizes))


def _interleaved(rows: Any, kernel: Any, stride: int, padding: str, sizes: list[int]) -> Any:
    """Transposed convolution as one plain convolution.

    A transposed convolution of stride s makes s * s interleaved images, each with taps of the
    kernel of its own. They become the channels of one convolution and are then put in place.
    """
    height, width, channels, filters = kernel.shape
    taps = [-(-height // stride), -(-width // stride)]
    kernel = tf.pad(
        kernel,
        [(0, taps[0] * stride - height), (0, taps[1] * stride - width), (0, 0), (0, 0)],
    )
    kernel = tf.reshape(kernel, [taps[0], stride, taps[1], stride, channels, filters])
    kernel = tf.reverse(tf.transpose(kernel, [0, 2, 5, 1, 3, 4]), [0, 1])
    kernel = tf.reshape(kernel, [*taps, filters, stride * stride * channels])
    pads = [(0, 0), *((tap - 1, tap - 1) for tap in taps), (0, 0)]
    images = tf.nn.depth_to_space(tf.nn.conv2d(tf.pad(rows, pads), kernel, 1, "VALID"), stride)
    # The images are those of the padded input: cut the padding, or add what no window reached.
    spans = []
    for axis, size in ((1, height), (2, width)):
        count = rows.shape[axis]
        missing = (count - 1) * stride + size - sizes[axis - 1]
        spans.append((max(missing, 0) // 2 if padding == "same" else 0, sizes[axis - 1]))
    short = [
        max(0, start + size - images.shape[axis])
        for axis, (start, size) in enumerate(spans, start=1)
    ]
    if any(short):
        images = tf.pad(images, [(0, 0), (0, short[0]), (0, short[1]), (0, 0)])
    (top, rows_kept), (left, columns_kept) = spans
    return images[:, top : top + rows_kept, left : left + columns_kept]
