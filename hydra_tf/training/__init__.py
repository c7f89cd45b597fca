"""Robust training in three phases: pretrain, prune, fine-tune."""

from hydra_tf.training.callbacks import HydraCallback, MetricsLog
from hydra_tf.training.phases import PHASES, trained_variables
from hydra_tf.training.robust_model import RobustModel
from hydra_tf.training.step import robust_step

__all__ = [
    "PHASES",
    "HydraCallback",
    "MetricsLog",
    "RobustModel",
    "robust_step",
    "trained_variables",
]
