"""Keras callbacks: the HYDRA pipeline, the metrics log and the guard against NaN."""

from hydra_tf.training.callbacks.metrics_log import MetricsLog
from hydra_tf.training.callbacks.nan_guard import NaNGuard
from hydra_tf.training.callbacks.pipeline import HydraCallback

__all__ = ["HydraCallback", "MetricsLog", "NaNGuard"]
