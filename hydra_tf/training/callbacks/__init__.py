"""Keras callbacks: the HYDRA pipeline, logs of metrics and masks, the guard against NaN."""

from hydra_tf.training.callbacks.metrics_log import MetricsLog
from hydra_tf.training.callbacks.nan_guard import NaNGuard
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.callbacks.summaries import AttackSummaries, MaskSummaries

__all__ = ["AttackSummaries", "HydraCallback", "MaskSummaries", "MetricsLog", "NaNGuard"]
