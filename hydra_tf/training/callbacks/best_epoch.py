"""The weights of the best epoch of a phase."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from hydra_tf.core.files import replacing


class BestEpoch:
    """The weights of the best epoch of a phase so far.

    Args:
        folder: where the weights are also stored, for a resumed run; None for memory only.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._value = -math.inf
        self._weights: list[np.ndarray[Any, Any]] | None = None

    def start(self) -> None:
        """Discard the best epoch, at the start of a phase."""
        self._value, self._weights = -math.inf, None

    def offer(self, model: keras.Model, phase: str, value: float) -> None:
        """Keep the model's weights if `value` is the largest so far."""
        if not value > self._value:
            return
        weights = model.get_weights()
        self._value, self._weights = value, weights
        if self._folder is not None:
            os.makedirs(self._folder, exist_ok=True)
            with replacing(os.path.join(self._folder, f"{phase}.npz")) as temporary:
                np.savez(temporary, *weights, value=value)

    def resume(self, phase: str) -> None:
        """Load the best epoch of a phase that an interrupted run stored."""
        path = os.path.join(self._folder or "", f"{phase}.npz")
        if self._folder is None or not os.path.exists(path):
            return
        with np.load(path) as stored:
            self._value = float(stored["value"])
            self._weights = [stored[f"arr_{i}"] for i in range(len(stored.files) - 1)]

    def arrays(self) -> dict[str, Any]:
        """Return the best epoch as arrays for a checkpoint."""
        if self._weights is None:
            return {}
        arrays = {f"best/{i}": weights for i, weights in enumerate(self._weights)}
        return {**arrays, "best_value": np.float64(self._value)}

    def load_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Set the best epoch from the arrays of a checkpoint."""
        self.start()
        if "best_value" in arrays:
            count = sum(key.startswith("best/") for key in arrays)
            self._value = float(arrays["best_value"])
            self._weights = [arrays[f"best/{i}"] for i in range(count)]

    def restore(self, model: keras.Model) -> None:
        """Set the weights of the model to those of the best epoch, if there is one."""
        if self._weights is not None:
            model.set_weights(self._weights)
