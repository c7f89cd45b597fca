"""The transpose of a strided convolution of few channels, for which TensorFlow's is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from hydra_tf.core.lazy import tf

# Maps rows, a kernel and the sizes of the input to the coefficients on the input.
Transpose: TypeAlias = Callable[["tf.Tensor", "tf.Tensor", list[int]], "tf.Tensor"]

# From this number of input channels on, TensorFlow's transposed convolution is as fast on CPUs.
_FEW_CHANNELS = 8


def strided_transpose(
    options: dict[str, Any], shape: tuple[int, ...], groups: int
) -> Transpose | None:
    """Return a fast transpose for a convolution, or None where TensorFlow's is as fast.

    Args:
        options: strides, padding, dilation_rate and data_format of a Keras convolution.
        shape: shape of its kernel.
        groups: number of groups of its channels; only one group has a fast transpose.

    Returns:
        A function of coefficients [n, height, width, filters], the kernel, and the sizes of
        the convolution's input, that returns coefficients [n, *sizes].

    Example:
        >>> options = {"strides": (1, 1), "dilation_rate": (1, 1), "data_format": "channels_last"}
        >>> strided_transpose(options, (3, 3, 1, 4), groups=1) is None
        True
    """
    strides, padding = options["strides"], options.get("padding", "valid")
    dense = groups == 1 and set(options["dilation_rate"]) == {1}
    channels_last = options["data_format"] == "channels_last"
    equal_strides = len(strides) == 2 and strides[0] == strides[1] > 1
    if not (dense and channels_last and equal_strides and shape[2] < _FEW_CHANNELS):
        return None

    @tf.custom_gradient
    def apply(
        rows: tf.Tensor, kernel: tf.Tensor, sizes: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., Any]]:
        static_sizes = [int(size) for size in tf.get_static_value(sizes)]

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
            window = {"strides": [1, *strides, 1], "padding": padding.upper()}
            kernel_gradient = tf.raw_ops.Conv2DBackpropFilter(
                input=upstream, filter_sizes=shape, out_backprop=rows, **window
            )
            return tf.nn.conv2d(upstream, kernel, **window), kernel_gradient, None

        return _interleaved(rows, kernel, strides[0], padding, static_sizes), gradient

    return lambda rows, kernel, sizes: apply(rows, kernel, tf.constant(sizes))


def _interleaved(
    rows: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str, sizes: list[int]
) -> tf.Tensor:
    """Return a transposed convolution, computed as one plain convolution.

    A transposed convolution of stride s makes s * s interleaved images, each from different taps
    of the kernel. They are computed as the channels of one convolution and then interleaved.
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
    # The images include the padding: cut it, and append zeros where no window reached.
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
