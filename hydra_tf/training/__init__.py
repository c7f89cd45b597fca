"""Robust training in three phases: pretrain, prune, fine-tune."""

import keras  # noqa: F401 - first, so that hydra_tf registers its classes with Keras

from hydra_tf.training.callbacks.metrics_log import MetricsLog
from hydra_tf.training.callbacks.nan_guard import NaNGuard
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.callbacks.summaries import AttackSummaries, MaskSummaries
from hydra_tf.training.long_runs.checkpoints import Checkpoints
from hydra_tf.training.long_runs.loop import train
from hydra_tf.training.long_runs.loop_options import LoopOptions
from hydra_tf.training.long_runs.preemption import PreemptionError
from hydra_tf.training.robust_model import RobustModel
from hydra_tf.training.step.microbatches import StepOptions
from hydra_tf.training.step.phases import PHASES, trained_variables
from hydra_tf.training.step.robust_step import robust_step

__all__ = [
    "PHASES",
    "AttackSummaries",
    "Checkpoints",
    "HydraCallback",
    "LoopOptions",
    "MaskSummaries",
    "MetricsLog",
    "NaNGuard",
    "PreemptionError",
    "RobustModel",
    "StepOptions",
    "robust_step",
    "train",
    "trained_variables",
]
