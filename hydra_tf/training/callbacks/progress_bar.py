"""The progress bar of a phase."""

from __future__ import annotations

import time
from typing import Any

import keras

from hydra_tf.core.durations import duration
from hydra_tf.sparsity.model import report


class _EpochCount(int):
    """The number of epochs, printed with a label after it."""

    label = ""

    def __str__(self) -> str:
        return f"{int(self)}{self.label}"


class PhaseProgbar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with the phase and density in the line of each epoch."""

    epochs: int
    _first: int | None = None
    _start = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the times of an earlier fit."""
        super().on_train_begin(logs)
        self._first = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Print the epoch, the phase, the density, and about how much time is left."""
        density = report(self.model)["total"]["density"]
        count = _EpochCount(self.epochs)
        count.label = f" - {self.model.phase.name}, density {density:.3g}"
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = epoch, now
        else:
            seconds = (now - self._start) / (epoch - self._first) * (int(self.epochs) - epoch)
            count.label += f", about {duration(seconds)} left"
        self.epochs = count
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print the metrics of the epoch, without the densities of single layers."""
        shown = {k: v for k, v in (logs or {}).items() if not k.startswith("density/")}
        super().on_epoch_end(epoch, shown)
