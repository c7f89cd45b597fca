"""Networks by name, and functions that mask a network and strip its masks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hydra_tf.models.zoo import MODELS, build

if TYPE_CHECKING:
    from hydra_tf.models.masking import mask_model, strip_masks, synchronize_batchnorm

__all__ = ["MODELS", "build", "mask_model", "strip_masks", "synchronize_batchnorm"]


def __getattr__(name: str) -> Any:
    # Masking imports Keras, which looking up a name must not do.
    if name in ("mask_model", "strip_masks", "synchronize_batchnorm"):
        return getattr(importlib.import_module("hydra_tf.models.masking"), name)
    raise AttributeError(f"hydra_tf.models has no attribute {name!r}.")
