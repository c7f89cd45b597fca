"""TensorFlow Model Optimization for Keras 3 models, and the way to its own tf_keras and back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_tf.interop.tfmot.bridge import from_tf_keras, to_tf_keras
    from hydra_tf.interop.tfmot.importing import import_tf_keras, import_tfmot
    from hydra_tf.interop.tfmot.pruning import prune_low_magnitude, prune_scope, strip_pruning
    from hydra_tf.interop.tfmot.pruning_callbacks import PruningSummaries, UpdatePruningStep
    from hydra_tf.interop.tfmot.quantization import quantized_to_tflite

__all__ = [
    "PruningSummaries",
    "UpdatePruningStep",
    "from_tf_keras",
    "import_tf_keras",
    "import_tfmot",
    "prune_low_magnitude",
    "prune_scope",
    "quantized_to_tflite",
    "strip_pruning",
    "to_tf_keras",
]

_MODULES = {
    "PruningSummaries": "pruning_callbacks",
    "UpdatePruningStep": "pruning_callbacks",
    "from_tf_keras": "bridge",
    "import_tf_keras": "importing",
    "import_tfmot": "importing",
    "prune_low_magnitude": "pruning",
    "prune_scope": "pruning",
    "quantized_to_tflite": "quantization",
    "strip_pruning": "pruning",
    "to_tf_keras": "bridge",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: tfmot and tf_keras are loaded only when they are needed.
    if name == "sparsity":
        return importlib.import_module("hydra_tf.interop.tfmot.sparsity")
    if name in _MODULES:
        return getattr(importlib.import_module(f"hydra_tf.interop.tfmot.{_MODULES[name]}"), name)
    raise AttributeError(f"hydra_tf.interop.tfmot has no name {name!r}.")
