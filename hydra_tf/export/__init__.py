"""Shipping a network: plain Keras files and checked TFLite files."""

from hydra_tf.export.dense import to_keras
from hydra_tf.export.size import ExportReport
from hydra_tf.export.tflite import to_tflite

__all__ = ["ExportReport", "to_keras", "to_tflite"]
