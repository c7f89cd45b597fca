"""TensorFlow Model Optimization for Keras 3 models, and the way to its own tf_keras and back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_tf.interop.tfmot.bridge import from_tf_keras, to_tf_keras
    from hydra_tf.interop.tfmot.importing import import_tf_keras, import_tfmot
    from hydra_tf.interop.tfmot.quantization import quantized_to_tflite

__all__ = [
    "from_tf_keras",
    "import_tf_keras",
    "import_tfmot",
    "quantized_to_tflite",
    "to_tf_keras",
]

_MODULES = {
    "from_tf_keras": "bridge",
    "import_tf_keras": "importing",
    "import_tfmot": "importing",
    "quantized_to_tflite": "quantization",
    "to_tf_keras": "bridge",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: tfmot and tf_keras are loaded only when they are needed.
    if name in _MODULES:
        return getattr(importlib.import_module(f"hydra_tf.interop.tfmot.{_MODULES[name]}"), name)
    raise AttributeError(f"hydra_tf.interop.tfmot has no name {name!r}.")
