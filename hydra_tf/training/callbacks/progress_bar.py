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
    _epoch = 0
    _first: tuple[int, int] | None = None  # epoch and number of steps when the clock started
    _start = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the times of an earlier fit."""
        super().on_train_begin(logs)
        self._first = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Show the metrics; start the clock after the first step, which includes compilation."""
        if self._first is None:
            self._first, self._start = (self._epoch, batch + 1), time.monotonic()
        super().on_train_batch_end(batch, logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Print the epoch, the phase, the density, and about how much time is left."""
        density = report(self.model)["total"]["density"]
        count = _EpochCount(self.epochs)
        count.label = f" - {self.model.phase.name}, density {density:.3g}"
        if timed := self._timed_epochs(epoch):
            seconds = (time.monotonic() - self._start) / timed * (int(self.epochs) - epoch)
            count.label += f", about {duration(seconds)} left"
        self._epoch, self.epochs = epoch, count
        super().on_epoch_begin(epoch, logs)

    def _timed_epochs(self, epoch: int) -> float:
        """Return how many epochs the clock has measured before this one; 0 before it started."""
        if self._first is None or not self.target:
            return 0.0
        first_epoch, steps = self._first
        return epoch - first_epoch - steps / self.target

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print the metrics of the epoch, without the densities of single layers."""
        shown = {k: v for k, v in (logs or {}).items() if not k.startswith("density/")}
        super().on_epoch_end(epoch, shown)
