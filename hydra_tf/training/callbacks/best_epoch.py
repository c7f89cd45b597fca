"""The weights of the best epoch of a phase."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from hydra_tf.core.files import replacing
from hydra_tf.core.registry import unknown


class BestEpoch:
    """The weights of the best epoch of a phase so far.

    Args:
        folder: where the weights are also stored, for a resumed run; None for memory only.
        monitor: metric by which epochs are compared; by default ``val_robust_accuracy``, else
            ``val_accuracy``, if there are validation data.
    """

    def __init__(self, folder: str | None = None, monitor: str | None = None) -> None:
        self._folder, self._monitor = folder, monitor
        self.warned = False  # that there are no validation data
        self._value = -math.inf
        self._weights: list[np.ndarray[Any, Any]] | None = None

    def start(self) -> None:
        """Discard the best epoch, at the start of a phase."""
        self._value, self._weights = -math.inf, None

    def measured(self, logs: Mapping[str, Any]) -> float | None:
        """Return the monitored value of an epoch, the larger the better; None without one.

        Args:
            logs: metrics of the epoch.

        Raises:
            ValueError: for an unknown metric.

        Example:
            >>> BestEpoch(monitor="val_loss").measured({"val_loss": 0.5})
            -0.5
        """
        monitor = self._monitor or next(
            (key for key in ("val_robust_accuracy", "val_accuracy") if key in logs), None
        )
        if monitor is None:
            return None
        if monitor in logs:
            return float(-logs[monitor] if monitor.endswith("loss") else logs[monitor])
        if any(key.startswith("val_") for key in logs):
            raise ValueError(unknown("monitor", monitor, logs))
        if not self.warned:
            logging.warning(
                'hydra_tf: there is no metric "%s" without validation data; a phase ends with the '
                "weights of its last epoch.",
                monitor,
            )
        self.warned = True
        return None

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


def restores_best(
    restore_best_weights: bool, restore_best: bool | None, monitor: str | None, best_dir: str | None
) -> bool:
    """Check the arguments of a pipeline; return whether its phases end with their best epoch.

    Args:
        restore_best_weights: whether they do, unless `restore_best` is given.
        restore_best: the same, under its deprecated name.
        monitor: metric that chooses the best epoch, None for the default.
        best_dir: folder for the best weights, None for memory only.

    Raises:
        ValueError: for a monitor or folder that would be ignored.

    Example:
        >>> restores_best(True, None, "val_accuracy", None)
        True
    """
    if restore_best is not None:
        warnings.warn(
            "HydraCallback(restore_best=...) is deprecated; use restore_best_weights.",
            DeprecationWarning,
            stacklevel=3,  # the line that makes the callback
        )
        restore_best_weights = restore_best
    if not restore_best_weights and (monitor or best_dir):
        raise ValueError(
            "HydraCallback(restore_best_weights=False) chooses no best epoch, so that monitor "
            "and best_dir would be ignored; leave them out."
        )
    return restore_best_weights


def reset_best(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Reset Keras's callbacks that track a best value, at the start of a phase.

    Args:
        callbacks: those of other classes are not changed.

    Example:
        >>> early = keras.callbacks.EarlyStopping()
        >>> early.best = 0.5
        >>> reset_best([early])
        >>> early.best is None
        True
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.EarlyStopping):
            callback.on_train_begin()  # documented to reset it, so that it can be reused
        if isinstance(callback, keras.callbacks.EarlyStopping | keras.callbacks.ModelCheckpoint):
            callback.best = None  # which older EarlyStopping classes do not reset themselves
