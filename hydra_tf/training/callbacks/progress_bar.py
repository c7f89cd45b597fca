"""The progress bar of a phase."""

from __future__ import annotations

from typing import Any

import keras

from hydra_tf.sparsity.model import report


class _EpochCount(int):
    """The number of epochs, printed with a label after it."""

    label = ""

    def __str__(self) -> str:
        return f"{int(self)}{self.label}"


class PhaseProgbar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with the phase and density in the line of each epoch."""

    epochs: int

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Print the epoch, the phase and the density."""
        density = report(self.model)["total"]["density"]
        count = _EpochCount(self.epochs)
        count.label = f" - {self.model.phase.name}, density {density:.3g}"
        self.epochs = count
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print the metrics of the epoch, without the densities of single layers."""
        shown = {k: v for k, v in (logs or {}).items() if not k.startswith("density/")}
        super().on_epoch_end(epoch, shown)
