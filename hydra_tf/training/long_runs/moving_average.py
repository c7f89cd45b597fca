"""A moving average of the weights (Polyak and Juditsky, 1992), evaluated in their place."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np


class MovingAverage:
    """The exponential moving average of a list of variables.

    Create it within the scope of the tf.distribute strategy, if there is one.

    Args:
        variables: Keras variables, built.
        decay: share of the average that remains at each step, in (0, 1).

    Raises:
        ValueError: for a decay out of range.

    Example:
        >>> weight = keras.Variable(1.0)
        >>> average = MovingAverage([weight], decay=0.9)
        >>> _ = weight.assign(2.0)
        >>> average.update()
        >>> average.swap()
        >>> round(float(weight), 3)
        1.1
    """

    def __init__(self, variables: Sequence[keras.Variable], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"The decay of a moving average is in (0, 1), not {decay}.")
        self.decay, self._followed = decay, list(variables)
        self.variables = [
            keras.Variable(
                np.asarray(variable),
                dtype=variable.dtype,
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
            )
            for variable in self._followed
        ]

    def start(self) -> None:
        """Start again from the current values."""
        for average, variable in zip(self.variables, self._followed, strict=True):
            average.assign(np.asarray(variable))

    def update(self) -> None:
        """Move the averages towards the current values, within the graph of a step."""
        for average, variable in zip(self.variables, self._followed, strict=True):
            average.assign(average + (1.0 - self.decay) * (variable - average))

    def swap(self) -> None:
        """Exchange the averages and the current values."""
        for average, variable in zip(self.variables, self._followed, strict=True):
            current, averaged = np.asarray(variable), np.asarray(average)
            variable.assign(averaged)
            average.assign(current)
