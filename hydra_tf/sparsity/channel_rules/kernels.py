"""Channel rules of layers with a kernel: dense and convolutional ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.channel_rules.activations import acts_elementwise
from hydra_tf.sparsity.channel_rules.registry import (
    ChannelWeight,
    Mixing,
    PerChannel,
    Shapes,
    register_channel_rule,
)


@register_channel_rule("layers.Dense")
def dense(layer: keras.layers.Layer, shapes: Shapes) -> Mixing:
    """Return that of ``activation(x @ kernel + bias)``."""
    return Mixing(0, 1, "units", elementwise=acts_elementwise(layer.activation))


@register_channel_rule("layers.Conv1D", "layers.Conv2D", "layers.Conv3D")
def convolution(layer: keras.layers.Layer, shapes: Shapes) -> Mixing | None:
    """Return that of a convolution with any padding, stride, dilation and groups."""
    rank = layer.rank
    if layer.data_format == "channels_first":
        return None
    return Mixing(
        rank,
        rank + 1,
        "filters",
        layer.groups,
        uniform=layer.padding == "valid" or all(size == 1 for size in layer.kernel_size),
        elementwise=acts_elementwise(layer.activation),
    )


@register_channel_rule("layers.Conv1DTranspose", "layers.Conv2DTranspose", "layers.Conv3DTranspose")
def transposed(layer: keras.layers.Layer, shapes: Shapes) -> Mixing | None:
    """Return that of a transposed convolution, whose windows overlap differently in space."""
    rank = layer.rank
    if layer.data_format == "channels_first":
        return None
    elementwise = acts_elementwise(layer.activation)
    return Mixing(rank + 1, rank, "filters", uniform=False, elementwise=elementwise)


@register_channel_rule("layers.DepthwiseConv1D", "layers.DepthwiseConv2D")
def depthwise(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that of a convolution that makes `depth_multiplier` channels from each channel."""
    if layer.data_format == "channels_first" or not acts_elementwise(layer.activation):
        return None
    channels, multiplier = layer.kernel.shape[-2:]
    rows = np.arange(channels) * multiplier
    weights = [ChannelWeight("kernel", -2, rows, is_kernel=True)]
    if layer.bias is not None:
        weights.append(ChannelWeight("bias"))

    def zero() -> NDArray[np.bool_]:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        return ~np.any(kernel.reshape(-1, channels * multiplier), axis=0)

    return PerChannel((np.repeat(np.arange(channels), multiplier),), tuple(weights), zero)
