"""Robust training in three phases: pretrain, prune, fine-tune."""

import keras  # noqa: F401 - first: its import makes hydra_tf enter its classes with Keras

from hydra_tf.training.callbacks import HydraCallback
from hydra_tf.training.checkpoints import Checkpoints
from hydra_tf.training.loop import train
from hydra_tf.training.options import LoopOptions
from hydra_tf.training.parts import StepOptions
from hydra_tf.training.phases import PHASES, trained_variables
from hydra_tf.training.preemption import PreemptionError
from hydra_tf.training.robust_model import RobustModel
from hydra_tf.training.step import robust_step
from hydra_tf.training.watch import MetricsLog, NaNGuard

__all__ = [
    "PHASES",
    "Checkpoints",
    "HydraCallback",
    "LoopOptions",
    "MetricsLog",
    "NaNGuard",
    "PreemptionError",
    "RobustModel",
    "StepOptions",
    "robust_step",
    "train",
    "trained_variables",
]
