"""PyTorch checkpoints: published networks become Keras models, and Keras models PyTorch files.

PyTorch is an extra, ``pip install "hydra_tf[torch]"``, and imported when a file is read or written.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_tf.interop.torch.loading import load_checkpoint
    from hydra_tf.interop.torch.saving import save_checkpoint

# These modules import Keras.
_MODULES = {"load_checkpoint": "loading", "save_checkpoint": "saving"}

__all__ = ["load_checkpoint", "save_checkpoint"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"{__name__} has no attribute {name!r}.")
