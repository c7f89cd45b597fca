"""A guard against losses and weights that are not finite."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np


class NaNGuard(keras.callbacks.Callback):
    """Ends a `fit` whose loss is not finite, with the weights of the last good epoch.

    The optimizer then has the state of a new one and its compiled learning rate, so that a
    lower rate can be set and training continued.

    Example:
        >>> import hydra_tf
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> model = hydra_tf.RobustModel(net, objective="natural")
        >>> model.compile(keras.optimizers.SGD(float("inf")))
        >>> x, y = np.ones([4, 2], "float32"), np.zeros([4], int)
        >>> model.fit(x, y, epochs=2, verbose=0, callbacks=[NaNGuard()])
        Traceback (most recent call last):
        FloatingPointError: The weights became NaN or infinite by the end of epoch 1, in phase ...
        >>> bool(np.isfinite(net.get_weights()[0]).all())
        True
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Keep the weights that training starts from."""
        self._origin, self._weights = "the start of this process", self.model.get_weights()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Record the epoch for the error message."""
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
        """Keep the weights of the epoch if they are finite.

        Raises:
            FloatingPointError: if they are not, after the previous ones have been restored.
        """
        weights, origin = self.model.get_weights(), f"the end of epoch {epoch + 1}"
        if all(np.isfinite(values).all() for values in weights):
            self._origin, self._weights = origin, weights
        else:
            self._stop(f"The weights became NaN or infinite by {origin}")

    def _stop(self, event: str) -> None:
        """Restore the last good weights, reset the optimizer, and raise."""
        self.model.set_weights(self._weights)
        self.model.compiled_rate.restore()
        self.model.reset_optimizer()
        raise FloatingPointError(
            f"{event}, in phase {self.model.phase.name}; the model has the weights of "
            f"{self._origin}. Lower the learning rate or clip the gradients."
        )
