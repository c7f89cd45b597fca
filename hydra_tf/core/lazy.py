"""TensorFlow and Keras, imported at first use.

The files of registered parts import both names from here, so that a command line can look
up names and parameters, and answer ``--help``, without the cost of importing TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """A module that is imported when one of its names is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


tf: Any = LazyModule("tensorflow")
keras: Any = LazyModule("keras")
