"""The place of TFMOT's names for pruning: ``tfmot.sparsity.keras``."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["keras"]


def __getattr__(name: str) -> Any:
    if name == "keras":
        return importlib.import_module("hydra_tf.interop.tfmot.sparsity.keras")
    raise AttributeError(f"hydra_tf.interop.tfmot.sparsity has no name {name!r}.")
