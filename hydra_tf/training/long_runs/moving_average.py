"""A moving average of the weights (Polyak and Juditsky, 1992), judged and kept in their place."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class MovingAverage:
    """The exponential moving average of a list of variables.

    Made under the scope of the tf.distribute strategy, if there is one.

    Args:
        variables: Keras variables, built.
        decay: share, in (0, 1), that the average keeps of itself at each step.

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

    def __init__(self, variables: list[Any], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"The decay of a moving average lies in (0, 1), not at {decay}.")
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
        """Begin anew at the present values."""
        for average, variable in zip(self.variables, self._followed, strict=True):
            average.assign(np.asarray(variable))

    def update(self) -> None:
        """Take the present values in; part of the graph of a step."""
        for average, variable in zip(self.variables, self._followed, strict=True):
            average.assign(average + (1.0 - self.decay) * (variable - average))

    def swap(self) -> None:
        """Exchange the averages and the values themselves."""
        for average, variable in zip(self.variables, self._followed, strict=True):
            own, other = np.asarray(variable), np.asarray(average)
            variable.assign(other)
            average.assign(own)
