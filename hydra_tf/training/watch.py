"""What watches a robust `fit`: a guard against NaN, the progress bar, a log of metrics."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import keras

from hydra_tf.sparsity.model import report


class NaNGuard(keras.callbacks.Callback):
    """Ends a `fit` whose loss is not finite, with the weights of the last good epoch."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Keep the weights training starts from."""
        self._keep("the start")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch, for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop at a loss that is NaN or infinite.

        Raises:
            FloatingPointError: after the last good weights have been restored.
        """
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(float(loss)):
            return
        self.model.set_weights(self._weights)
        raise FloatingPointError(
            f"The loss became {float(loss)} in phase {self.model.phase.name}, epoch "
            f"{self._epoch + 1}, step {batch + 1}; the model holds the weights of {self._where}. "
            "Lower the learning rate or clip the gradients."
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the weights of an epoch whose loss was finite."""
        self._keep(f"the end of epoch {epoch + 1}")

    def _keep(self, where: str) -> None:
        self._where, self._weights = where, self.model.get_weights()


class _EpochCount(int):
    """The number of epochs, written with the phase behind it."""

    label = ""

    def __str__(self) -> str:
        return f"{int(self)}{self.label}"


class PhaseProgbar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar, its epoch line naming the phase."""

    epochs: int

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch, the phase and the density."""
        density = report(self.model)["total"]["density"]
        count = _EpochCount(self.epochs)
        count.label = f" - {self.model.phase.name}, density {density:.3g}"
        self.epochs = count
        super().on_epoch_begin(epoch, logs)


class MetricsLog(keras.callbacks.Callback):
    """Appends each epoch's metrics to a file, one JSON object a line.

    Args:
        path: the file; lines of epochs that are trained again after a restart are replaced.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = os.fspath(path)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's line."""
        lines = []
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                lines = [line for line in file if json.loads(line)["epoch"] < epoch + 1]
        row = {key: float(value) for key, value in (logs or {}).items()}
        lines.append(json.dumps({"epoch": epoch + 1, "phase": self.model.phase.name, **row}) + "\n")
        with open(f"{self.path}.tmp", "w", encoding="utf-8") as file:
            file.writelines(lines)
        os.replace(f"{self.path}.tmp", self.path)
