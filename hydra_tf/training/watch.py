"""What watches a robust `fit`: its length, a guard against NaN, the progress bar, a log."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from hydra_tf.files import replacing
from hydra_tf.sparsity.model import report


class WholeFit(keras.callbacks.Callback):
    """Makes a `fit` without a pipeline one phase, over which an objective's epsilon may grow."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Count the steps, unless `set_phase` was told them.

        Raises:
            ValueError: for an objective whose epsilon grows, when they cannot be counted.
        """
        model, batches = self.model, self.params["steps"]
        if model.phase_steps != model.counted_steps:
            return
        ramp = getattr(model.objective, "ramp", 0.0)
        if not batches and ramp > 0:
            raise ValueError(
                "The length of the dataset is unknown, and the objective needs it to let epsilon "
                f"grow (ramp={ramp:g}); pass steps_per_epoch, use dataset.apply("
                "tf.data.experimental.assert_cardinality(n)), or set ramp=0."
            )
        counted = self.params["epochs"] * batches * model.replays if batches else None
        if counted != model.counted_steps:
            model.counted_steps = counted
            model.set_phase(model.phase.name, counted)


class NaNGuard(keras.callbacks.Callback):
    """Ends a `fit` whose loss is not finite, with the weights of the last good epoch.

    The optimizer then has the state of a new one and its compiled learning rate: a lower one
    can be set and training go on.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Keep the weights training starts from."""
        self._where, self._weights = "the start of this process", self.model.get_weights()

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
        self._stop(f"The loss became {float(loss)} in epoch {self._epoch + 1}, step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the weights of a good epoch.

        Raises:
            FloatingPointError: when they are not finite; the ones before are restored.
        """
        self._keep(f"the end of epoch {epoch + 1}")

    def _keep(self, where: str) -> None:
        """Keep the weights, unless the last step of the epoch has ruined them."""
        weights = self.model.get_weights()
        if all(np.isfinite(values).all() for values in weights):
            self._where, self._weights = where, weights
        else:
            self._stop(f"The weights became NaN or infinite by {where}")

    def _stop(self, what: str) -> None:
        """Restore the last good weights, forget what led away from them, and raise."""
        self.model.set_weights(self._weights)
        self.model.compiled_rate.give_back()
        self.model.renew_optimizer()
        raise FloatingPointError(
            f"{what}, in phase {self.model.phase.name}; the model holds the weights of "
            f"{self._where}. Lower the learning rate or clip the gradients."
        )


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
        with replacing(self.path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
