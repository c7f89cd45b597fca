"""Shipping a network: plain Keras files and checked TFLite files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_tf.export.dense import to_keras
    from hydra_tf.export.size import ExportReport
    from hydra_tf.export.tflite import to_tflite

__all__ = ["ExportReport", "to_keras", "to_tflite"]

_HOMES = {"ExportReport": "size", "to_keras": "dense", "to_tflite": "tflite"}


def __getattr__(name: str) -> Any:
    # A path can be checked, on a command line, without loading TensorFlow.
    if name in _HOMES:
        return getattr(importlib.import_module(f"hydra_tf.export.{_HOMES[name]}"), name)
    raise AttributeError(f"hydra_tf.export has no name {name!r}.")
