"""Export of networks: plain Keras files, and TFLite files that are compared with Keras."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_tf.export.budget import OverBudgetError
    from hydra_tf.export.compaction import compact
    from hydra_tf.export.dense import to_keras
    from hydra_tf.export.file_model import load_tflite
    from hydra_tf.export.judgement import Judgement, judge
    from hydra_tf.export.latency import Latency, measure_latency
    from hydra_tf.export.nearest import Candidate, Fit, nearest_fit
    from hydra_tf.export.onnx_file import to_onnx
    from hydra_tf.export.saved_model import to_saved_model
    from hydra_tf.export.size import ExportReport
    from hydra_tf.export.tflite import to_tflite

__all__ = [
    "Candidate",
    "ExportReport",
    "Fit",
    "Judgement",
    "Latency",
    "OverBudgetError",
    "compact",
    "judge",
    "load_tflite",
    "measure_latency",
    "nearest_fit",
    "to_keras",
    "to_onnx",
    "to_saved_model",
    "to_tflite",
]

_MODULES = {
    "Candidate": "nearest",
    "ExportReport": "size",
    "Fit": "nearest",
    "Judgement": "judgement",
    "Latency": "latency",
    "OverBudgetError": "budget",
    "compact": "compaction",
    "judge": "judgement",
    "load_tflite": "file_model",
    "measure_latency": "latency",
    "nearest_fit": "nearest",
    "to_keras": "dense",
    "to_onnx": "onnx_file",
    "to_saved_model": "saved_model",
    "to_tflite": "tflite",
}


def __getattr__(name: str) -> Any:
    # Imported at first use, so that a command line can check a path without TensorFlow.
    if name in _MODULES:
        return getattr(importlib.import_module(f"hydra_tf.export.{_MODULES[name]}"), name)
    raise AttributeError(f"hydra_tf.export has no name {name!r}.")
