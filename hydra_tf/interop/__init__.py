"""Bridges to other libraries, each imported only when it is used."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("tfmot", "torch")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"hydra_tf.interop.{name}")
    raise AttributeError(f"hydra_tf.interop has no name {name!r}.")
