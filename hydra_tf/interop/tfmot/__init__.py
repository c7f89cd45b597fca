"""TensorFlow Model Optimization for Keras 3 models, and the way to its own tf_keras and back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_tf.interop.tfmot.importing import import_tf_keras, import_tfmot
    from hydra_tf.interop.tfmot.pruning import prune_low_magnitude, prune_scope, strip_pruning
    from hydra_tf.interop.tfmot.pruning_callbacks import PruningSummaries, UpdatePruningStep

__all__ = [
    "PruningSummaries",
    "UpdatePruningStep",
    "import_tf_keras",
    "import_tfmot",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]

_MODULES = {
    "PruningSummaries": "pruning_callbacks",
    "UpdatePruningStep": "pruning_callbacks",
    "import_tf_keras": "importing",
    "import_tfmot": "importing",
    "prune_low_magnitude": "pruning",
    "prune_scope": "pruning",
    "strip_pruning": "pruning",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: tfmot and tf_keras are loaded only when they are needed.
    if name == "sparsity":
        return importlib.import_module("hydra_tf.interop.tfmot.sparsity")
    if name in _MODULES:
        return getattr(importlib.import_module(f"hydra_tf.interop.tfmot.{_MODULES[name]}"), name)
    raise AttributeError(f"hydra_tf.interop.tfmot has no name {name!r}.")
