"""Bounds on a network's logits over Linf balls: intervals and linear relaxations."""

from hydra_tf.bounds.base import BOUNDS, Bound, build
from hydra_tf.bounds.margins import bound, margin_lower_bound
from hydra_tf.bounds.robust_loss import cross_entropy_upper_bound
from hydra_tf.bounds.rules.registry import register_activation, register_rule

__all__ = [
    "BOUNDS",
    "Bound",
    "bound",
    "build",
    "cross_entropy_upper_bound",
    "margin_lower_bound",
    "register_activation",
    "register_rule",
]
