"""Networks by name, and functions that mask a network, strip its masks, or change its ends."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hydra_tf.models.zoo import MODELS, build

if TYPE_CHECKING:
    from hydra_tf.models.masking import mask_model, strip_masks, synchronize_batchnorm
    from hydra_tf.models.outputs import select_output
    from hydra_tf.models.preprocessing import application, with_preprocessing

# These modules import Keras, which looking up a name must not do.
_MODULES = {
    "application": "preprocessing",
    "mask_model": "masking",
    "select_output": "outputs",
    "strip_masks": "masking",
    "synchronize_batchnorm": "masking",
    "with_preprocessing": "preprocessing",
}

__all__ = [
    "MODELS",
    "application",
    "build",
    "mask_model",
    "select_output",
    "strip_masks",
    "synchronize_batchnorm",
    "with_preprocessing",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"hydra_tf.models.{_MODULES[name]}"), name)
    raise AttributeError(f"hydra_tf.models has no attribute {name!r}.")
