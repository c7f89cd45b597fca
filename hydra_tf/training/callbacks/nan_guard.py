"""A guard against losses and weights that are not finite."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np


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
