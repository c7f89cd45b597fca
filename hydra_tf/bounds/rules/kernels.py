"""Rules of layers with a kernel: dense and convolutional ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hydra_tf.bounds.rules.nodes import Affine, Node
from hydra_tf.bounds.rules.registry import Shapes, activation_nodes, register_rule
from hydra_tf.bounds.rules.strided_transpose import Transpose, strided_transpose
from hydra_tf.core.lazy import keras, tf


@register_rule("layers.Dense")
def dense(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the nodes of ``activation(x @ kernel + bias)``."""
    inputs, units = layer.kernel.shape
    return [_kernel_node(layer, keras.ops.matmul, inputs, units), *activation_nodes(layer)]


@register_rule("layers.Conv1D", "layers.Conv2D", "layers.Conv3D")
def convolution(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the nodes of a convolution with any padding, stride, dilation and groups."""
    options = _window_options(layer)
    causal = 0
    if layer.padding == "causal":
        causal, options["padding"] = layer.dilation_rate[0] * (layer.kernel_size[0] - 1), "valid"

    def apply(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if causal:
            last = layer.data_format == "channels_last"
            pads = [(0, 0), (causal, 0), (0, 0)] if last else [(0, 0), (0, 0), (causal, 0)]
            x = tf.pad(x, pads)
        return keras.ops.conv(x, kernel, **options)

    shape = layer.kernel.shape
    terms, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    transpose = strided_transpose(options, shape, layer.groups)
    return [_kernel_node(layer, apply, terms, fan_out, transpose), *activation_nodes(layer)]


@register_rule("layers.DepthwiseConv1D", "layers.DepthwiseConv2D")
def depthwise(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the nodes of a separate convolution of each channel."""
    options = _window_options(layer)
    shape = layer.kernel.shape
    node = _kernel_node(
        layer,
        lambda x, kernel: keras.ops.depthwise_conv(x, kernel, **options),
        math.prod(shape[:-2]),
        math.prod(shape[:-2]) * shape[-1],
    )
    return [node, *activation_nodes(layer)]


def _kernel_node(
    layer: keras.layers.Layer,
    apply: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    terms: int,
    fan_out: int,
    transpose: Transpose | None = None,
) -> Affine:
    """Return an affine node that applies a kernel and adds the bias along the channels."""
    masked = hasattr(layer, "masked_kernel")
    kernel = layer.masked_kernel() if masked else tf.convert_to_tensor(layer.kernel, tf.float32)
    bias, magnitudes = None, tf.abs(kernel)
    if layer.bias is not None:
        bias = tf.convert_to_tensor(layer.bias, tf.float32)
        if getattr(layer, "data_format", None) == "channels_first":
            bias = tf.reshape(bias, [-1] + [1] * layer.rank)

    def transposed(rows: tf.Tensor, sizes: list[int]) -> tf.Tensor:
        return transpose(rows, kernel, sizes) if transpose else None

    return Affine(
        lambda x: apply(x, kernel),
        lambda x: apply(x, magnitudes),
        bias,
        None if bias is None else tf.abs(bias),
        terms + 1,
        fan_out,
        transpose=transposed if transpose else None,
    )


def _window_options(layer: keras.layers.Layer) -> dict[str, Any]:
    return {
        "strides": tuple(layer.strides),
        "padding": layer.padding,
        "dilation_rate": tuple(layer.dilation_rate),
        "data_format": layer.data_format,
    }
