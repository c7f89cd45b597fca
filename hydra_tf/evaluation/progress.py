"""Progress bars over the batches of an evaluation."""

from __future__ import annotations

import keras
import tensorflow as tf


def batch_count(data: tf.data.Dataset) -> int | None:
    """Return the number of batches of a dataset, None if unknown.

    Example:
        >>> batch_count(tf.data.Dataset.range(3))
        3
    """
    count = int(data.cardinality())
    return count if count > 0 else None


class ProgressBar:
    """A bar that shows the mean of one measure so far.

    Args:
        total: number of steps, None if unknown.
        name: name of the measure.
        verbose: 0 shows nothing, 1 a bar.
        title: what is measured, such as the name of an attack; shown after the name.

    Example:
        >>> ProgressBar(2, "accuracy", verbose=0).show(1, 0.5)
    """

    def __init__(self, total: int | None, name: str, verbose: int, title: str = "") -> None:
        self._name = f"{name} ({title})" if title else name
        self._bar = keras.utils.Progbar(total, verbose=verbose, stateful_metrics=[self._name])

    def show(self, done: int, value: float) -> None:
        """Show the number of finished steps and the measure so far."""
        self._bar.update(done, [(self._name, value)])
