"""Channel rules of layers that keep the channels of one input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.channel_rules.activations import acts_elementwise
from hydra_tf.sparsity.channel_rules.registry import (
    ChannelWeight,
    PerChannel,
    Shapes,
    register_channel_rule,
)

_WINDOWS = [
    f"layers.{name}{rank}D"
    for rank in (1, 2, 3)
    for name in (
        "MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling",
        "Cropping", "UpSampling", "SpatialDropout",
    )
]  # fmt: skip
_ELEMENTWISE = [
    "layers.ReLU", "layers.LeakyReLU", "layers.ELU", "layers.Identity", "layers.Dropout",
    "layers.GaussianNoise", "layers.GaussianDropout", "layers.AlphaDropout",
    "layers.ActivityRegularization", "layers.RepeatVector",
    "activations.relu", "activations.sigmoid", "activations.tanh", "activations.silu",
    "activations.gelu", "activations.elu", "activations.leaky_relu", "activations.relu6",
]  # fmt: skip


@register_channel_rule(*_WINDOWS, *_ELEMENTWISE)
def unchanged(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that each channel is computed from the same channel."""
    if getattr(layer, "data_format", None) == "channels_first":
        return None
    return PerChannel((np.arange(shapes[0][-1] or 0),))


@register_channel_rule("layers.ZeroPadding1D", "layers.ZeroPadding2D", "layers.ZeroPadding3D")
def zero_padding(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that of zeros around each channel."""
    rule = unchanged(layer, shapes)
    return None if rule is None else PerChannel(rule.origins, pads=True)


@register_channel_rule("layers.Activation")
def activation(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that of an elementwise activation; others, such as softmax, are not followed."""
    return unchanged(layer, shapes) if acts_elementwise(layer.activation) else None


@register_channel_rule("layers.Rescaling")
def rescaling(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that of a scale and an offset that are the same for all channels."""
    return None if np.ndim(layer.scale) or np.ndim(layer.offset) else unchanged(layer, shapes)


@register_channel_rule("layers.BatchNormalization")
def batch_normalization(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that of a normalisation along the last axis, with its four weights."""
    size, axes = shapes[0][-1] or 0, len(shapes[0])
    if layer.axis not in (-1, axes - 1):
        return None
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    weights = tuple(ChannelWeight(name) for name in names if getattr(layer, name) is not None)

    def zero() -> NDArray[np.bool_]:
        return np.asarray(keras.ops.convert_to_numpy(layer.gamma) == 0)

    ignored = None if layer.gamma is None else zero
    return PerChannel((np.arange(size),), weights, ignored)


@register_channel_rule("layers.PReLU")
def parametric_relu(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that of a ReLU with slopes, which may be shared along all axes but the last."""
    size = shapes[0][-1] or 0
    if layer.alpha.shape[-1] != size:
        return None
    return PerChannel((np.arange(size),), (ChannelWeight("alpha", -1),))
