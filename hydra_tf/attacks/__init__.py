"""Attacks on classifiers: callables ``(model, x, y, seed=0) -> x_adv``."""

from hydra_tf.attacks.base import ATTACKS, Attack, GradientAttack, LossAttack, build
from hydra_tf.attacks.norms import project, random_start, steepest_step

__all__ = [
    "ATTACKS",
    "Attack",
    "GradientAttack",
    "LossAttack",
    "build",
    "project",
    "random_start",
    "steepest_step",
]
