"""The learning rate of the user, while a schedule moves the optimizer's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hydra_tf.core.registry import unknown
from hydra_tf.core.schedules import SCHEDULES
from hydra_tf.training.step.phases import PHASES

_SETTERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


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
        self.moved(rate)

    def moved(self, rate: float) -> None:
        """Note that the graph of a step has set the rate."""
        self._moved_to = float(np.float32(rate))

    def give_back(self) -> None:
        """Set the compiled rate again, if it was moved."""
        if self._moved_to is not None and self.rate is not None:
            self.move(self.rate)


def schedule_of(schedule: Any) -> Callable[..., float] | None:
    """Return the schedule of a name; a callable is one itself, None is none.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> schedule_of("constant")(5, 10, 0.1)
        0.1
    """
    if schedule is None or callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(unknown("schedule", schedule, SCHEDULES))
    return SCHEDULES[schedule]


def peak_rates(given: Any, schedule: Any) -> Mapping[str, float | None]:
    """Return the peak rate of each phase, None or nothing where it was not given.

    Args:
        given: one for all phases, a mapping from phase name to rate, or None.
        schedule: what the peak is of; None leaves the rate alone.

    Raises:
        ValueError: for an unknown phase, no rate, or a rate without a schedule.

    Example:
        >>> peak_rates(0.1, "cosine")["prune"]
        0.1
    """
    rates = given if isinstance(given, Mapping) else dict.fromkeys(PHASES, given)
    for name, rate in rates.items():
        if name not in PHASES:
            raise ValueError(unknown("phase in learning_rate:", name, PHASES))
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(f"A learning rate must be a positive number, not {rate}.")
        if rate is not None and schedule is None:
            raise ValueError(
                f"learning_rate={given} is the peak of a schedule, but schedule=None leaves the "
                "rate alone; give it to the optimizer, or choose a schedule."
            )
    return rates


def require_say(
    schedule: Callable[..., float] | None,
    rates: Mapping[str, float | None],
    peers: Sequence[Any],
) -> None:
    """Refuse rates that would have no say, and callbacks that a schedule would overrule.

    Args:
        schedule: of the pipeline, None where the optimizer has one of its own.
        rates: of the phases; see :func:`peak_rates`.
        peers: the other callbacks.

    Raises:
        ValueError: with what to leave out.
    """
    given = {name: rate for name, rate in rates.items() if rate is not None}
    if schedule is None and given:
        raise ValueError(
            f"The learning rates {given} of HydraCallback would have no say, for the optimizer was "
            "compiled with a schedule of its own; leave one of the two out."
        )
    for peer in peers if schedule is not None else ():
        if isinstance(peer, _SETTERS):
            raise ValueError(
                f"{type(peer).__name__} and HydraCallback would both set the learning rate; pass "
                "HydraCallback(schedule=None) to leave it to the other."
            )
