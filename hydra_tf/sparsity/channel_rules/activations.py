"""Activation functions that act on each number alone."""

from __future__ import annotations

from typing import Any

from hydra_tf.core.lazy import keras

_ELEMENTWISE = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish",
    "tanh", "sigmoid", "hard_sigmoid", "hard_silu", "softplus", "softsign", "exponential",
    "log_sigmoid", "hard_tanh", "tanh_shrink", "hard_shrink", "soft_shrink",
)  # fmt: skip


def acts_elementwise(activation: Any) -> bool:
    """Return whether an activation is a function of Keras that acts on each number alone.

    Args:
        activation: attribute of a layer; layers and functions of others are not known.

    Example:
        >>> acts_elementwise(keras.activations.relu), acts_elementwise(keras.activations.softmax)
        (True, False)
    """
    known = [getattr(keras.activations, name, None) for name in _ELEMENTWISE]
    return activation is None or any(activation is function for function in known)
