"""The weights of the best epoch of a phase."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hydra_tf.core.files import replacing


class BestEpoch:
    """The weights of a phase's best epoch so far.

    Args:
        folder: where to keep them too, so that a resumed run knows them; None for memory
            alone.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._value = -math.inf
        self._weights: Any = None

    def start(self) -> None:
        """Forget what was best: another phase begins."""
        self._value, self._weights = -math.inf, None

    def offer(self, model: Any, phase: str, value: float) -> None:
        """Keep the model's weights if `value` is the largest so far."""
        if not value > self._value:
            return
        self._value, self._weights = value, model.get_weights()
        if self._folder is not None:
            os.makedirs(self._folder, exist_ok=True)
            with replacing(os.path.join(self._folder, f"{phase}.npz")) as temporary:
                np.savez(temporary, *self._weights, value=value)

    def resume(self, phase: str) -> None:
        """Read back what an interrupted run kept of this phase."""
        path = os.path.join(self._folder or "", f"{phase}.npz")
        if self._folder is None or not os.path.exists(path):
            return
        with np.load(path) as stored:
            self._value = float(stored["value"])
            self._weights = [stored[f"arr_{i}"] for i in range(len(stored.files) - 1)]

    def arrays(self) -> dict[str, Any]:
        """Return what is known, for a checkpoint."""
        if self._weights is None:
            return {}
        kept = {f"best/{i}": weights for i, weights in enumerate(self._weights)}
        return {**kept, "best_value": np.float64(self._value)}

    def take_up(self, arrays: Mapping[str, Any]) -> None:
        """Know what a checkpoint knew."""
        self.start()
        if "best_value" in arrays:
            count = sum(key.startswith("best/") for key in arrays)
            self._value = float(arrays["best_value"])
            self._weights = [arrays[f"best/{i}"] for i in range(count)]

    def restore(self, model: Any) -> None:
        """Give the model the best weights, if there are any."""
        if self._weights is not None:
            model.set_weights(self._weights)
