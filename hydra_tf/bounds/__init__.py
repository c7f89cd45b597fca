"""Bounds on a network's logits over Linf balls: intervals and linear relaxations."""

from hydra_tf.bounds.base import BOUNDS, Bound, build
from hydra_tf.bounds.margins import bound, margin_lower_bound
from hydra_tf.bounds.rules.registry import register_activation, register_rule

__all__ = [
    "BOUNDS",
    "Bound",
    "bound",
    "build",
    "margin_lower_bound",
    "register_activation",
    "register_rule",
]
