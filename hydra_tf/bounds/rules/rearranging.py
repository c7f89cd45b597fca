"""Rules of layers that rearrange values, and of those that do nothing in inference."""

from __future__ import annotations

from hydra_tf.bounds.rules.nodes import Affine, Node
from hydra_tf.bounds.rules.registry import Shapes, register_rule
from hydra_tf.core.lazy import keras, tf
from hydra_tf.layers.reverse_channels import ReverseChannels


@register_rule(
    "layers.Flatten", "layers.Reshape", "layers.Permute", "layers.Concatenate",
    "layers.ZeroPadding1D", "layers.ZeroPadding2D", "layers.ZeroPadding3D",
    "layers.Cropping1D", "layers.Cropping2D", "layers.Cropping3D",
    ReverseChannels,
)  # fmt: skip
def rearrange(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return a node that moves, drops or joins values, or pads them with zeros."""
    several = type(layer) is keras.layers.Concatenate
    linear = (lambda *x: layer(list(x))) if several else layer
    return [Affine(linear, linear, diagonal=True)]


@register_rule(
    "layers.Dropout", "layers.SpatialDropout1D", "layers.SpatialDropout2D",
    "layers.SpatialDropout3D", "layers.GaussianDropout", "layers.GaussianNoise",
    "layers.ActivityRegularization", "layers.Identity",
)  # fmt: skip
def identity(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return a node that passes values on unchanged."""
    return [Affine(tf.identity, tf.identity, diagonal=True)]
