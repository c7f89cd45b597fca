"""Activation functions, and the rules of layers and operations that apply one."""

from __future__ import annotations

from hydra_tf.bounds.rules.nodes import Node, Rectifier
from hydra_tf.bounds.rules.rearranging import identity
from hydra_tf.bounds.rules.registry import (
    Shapes,
    activation_nodes,
    register_activation,
    register_rule,
)
from hydra_tf.core.lazy import keras


@register_activation("linear")
def linear_nodes() -> list[Node]:
    """Return no node."""
    return []


@register_activation("relu")
def relu_nodes() -> list[Node]:
    """Return a rectifier."""
    return [Rectifier()]


@register_activation("leaky_relu")
def leaky_relu_nodes() -> list[Node]:
    """Return a rectifier with the default slope of ``keras.activations.leaky_relu``."""
    return [Rectifier(0.2)]


@register_rule("layers.Activation")
def activation(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the nodes of the activation function."""
    return activation_nodes(layer) or identity(layer, shapes)


@register_rule("layers.LeakyReLU", "ops.leaky_relu")
def leaky_relu(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return a rectifier whose slope below 0 lies in [0, 1]."""
    slope = float(getattr(layer, "negative_slope", None) or 0.0)
    if not 0 <= slope <= 1:
        raise ValueError(
            f'There is no bound rule for layer "{layer.name}" ({type(layer).__name__}) with '
            f"negative_slope={slope}; it must lie in [0, 1]."
        )
    return [Rectifier(slope)]


@register_rule("layers.ReLU", "ops.relu", "activations.relu")
def relu(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return a rectifier; a layer may have a slope below 0, but no maximum or threshold."""
    if getattr(layer, "max_value", None) is not None or getattr(layer, "threshold", None):
        raise ValueError(
            f'There is no bound rule for layer "{layer.name}" (ReLU) with a max_value or '
            "threshold; use a plain ReLU."
        )
    return leaky_relu(layer, shapes)
