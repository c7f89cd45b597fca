"""PyTorch itself, imported at first use."""

from __future__ import annotations

import importlib
from typing import Any

# Before 2.10, a file can corrupt memory even with weights_only=True (CVE-2026-24747).
_OLDEST = (2, 10)
_INSTALL = 'pip install "hydra_tf[torch]"'


def require_torch() -> Any:
    """Return the module ``torch``.

    Raises:
        ImportError: when PyTorch is not installed, or too old to read files of others safely.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(f"PyTorch files need PyTorch: {_INSTALL}.") from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _OLDEST:
        raise ImportError(
            f"PyTorch {torch.__version__} does not read files of others safely; install version "
            f"{'.'.join(map(str, _OLDEST))} or later: {_INSTALL}."
        )
    return torch
