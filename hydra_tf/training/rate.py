"""The learning rate of the user, while a schedule moves the optimizer's."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class CompiledRate:
    """The learning rate that an optimizer was compiled with, while a schedule moves it.

    The rate is a variable. A run that was interrupted, or saved under way, leaves it where
    the schedule had it; taken for the compiled one it would shrink the next schedule.

    Args:
        rate: what was saved with a model, for :meth:`adopt`.
    """

    def __init__(self, rate: float | None = None) -> None:
        self._optimizer: Any = None
        self.rate = rate
        self._moved_to: float | None = None

    def note(self, optimizer: Any) -> float:
        """Return the compiled rate: the present one, unless a schedule put it there."""
        present = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        untouched = self._moved_to is None or present == self._moved_to
        if self._optimizer is not optimizer or not untouched or self.rate is None:
            self._optimizer, self.rate = optimizer, present
        self._moved_to = self._moved_to if untouched else None
        return self.rate

    def adopt(self, optimizer: Any) -> None:
        """Take an optimizer that was loaded with the model for the one of the saved rate."""
        self._optimizer = optimizer

    def move(self, rate: float) -> None:
        """Set the rate for the next step."""
        self._optimizer.learning_rate = rate
        self._moved_to = float(np.float32(rate))

    def give_back(self) -> None:
        """Set the compiled rate again, if it was moved."""
        if self._moved_to is not None and self.rate is not None:
            self.move(self.rate)
