"""The learning rates of the phases, and the compiled rate that a schedule overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from hydra_tf.core.registry import unknown
from hydra_tf.core.schedules import SCHEDULES
from hydra_tf.training.step.phases import PHASES

Schedule = Callable[..., float]

_SETTERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


class CompiledRate:
    """The learning rate that an optimizer was compiled with, while a schedule overrides it.

    The rate is a variable. After a run that was interrupted or saved half-way, its value is one of
    the schedule; if that were mistaken for the compiled rate, the next schedule would be too low.

    Args:
        rate: compiled rate that was saved with a model, for :meth:`attach`.
    """

    def __init__(self, rate: float | None = None) -> None:
        self._optimizer: Any = None
        self.rate = rate
        self._scheduled: float | None = None

    def remember(self, optimizer: keras.optimizers.Optimizer) -> float:
        """Return the compiled rate: the current rate, unless a schedule has set it."""
        current = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        unchanged = self._scheduled is None or current == self._scheduled
        if self._optimizer is not optimizer or not unchanged or self.rate is None:
            self._optimizer, self.rate = optimizer, current
        self._scheduled = self._scheduled if unchanged else None
        return self.rate

    def attach(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Apply the saved rate to an optimizer that was loaded with the model."""
        self._optimizer = optimizer

    def set(self, rate: float) -> None:
        """Set the rate of the next step."""
        self._optimizer.learning_rate = rate
        self.note(rate)

    def note(self, rate: float) -> None:
        """Record a rate that the graph of a step has set."""
        self._scheduled = float(np.float32(rate))

    def restore(self) -> None:
        """Set the compiled rate again if a schedule has overridden it."""
        if self._scheduled is not None and self.rate is not None:
            self.set(self.rate)


def schedule_of(schedule: Any) -> Schedule | None:
    """Return a schedule as a function of the step; None and other callables are unchanged.

    Args:
        schedule: name of a schedule, a callable ``(step, steps, peak, warmup) -> rate``, a
            `keras.optimizers.schedules.LearningRateSchedule`, which maps the step within the
            phase to a rate, or None.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> schedule_of("constant")(5, 10, 0.1)
        0.1
        >>> decay = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
        >>> schedule_of(decay)(2, 10, None)
        0.125
    """
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return lambda step, *_: float(keras.ops.convert_to_numpy(schedule(step)))
    if schedule is None or callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(unknown("schedule", schedule, SCHEDULES))
    return SCHEDULES[schedule]


def peak_rates(learning_rate: Any, schedule: Any) -> Mapping[str, float | None]:
    """Return the peak rate of each phase; None or no entry if none was given.

    Args:
        learning_rate: one for all phases, a mapping from phase name to rate, or None.
        schedule: the schedule that has the peak; None leaves the rate unchanged.

    Raises:
        ValueError: for an unknown phase, a rate that is not positive, or a rate without a
            schedule that has a peak.

    Example:
        >>> peak_rates(0.1, "cosine")["prune"]
        0.1
    """
    by_phase = isinstance(learning_rate, Mapping)
    rates = learning_rate if by_phase else dict.fromkeys(PHASES, learning_rate)
    for name, rate in rates.items():
        if name not in PHASES:
            raise ValueError(unknown("phase in learning_rate:", name, PHASES))
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(f"A learning rate must be a positive number, not {rate}.")
        if rate is not None and schedule is None:
            raise ValueError(
                f"learning_rate={learning_rate} is the peak of a schedule, but schedule=None "
                "leaves the rate unchanged; set it in the optimizer, or choose a schedule."
            )
        if rate is not None and isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            raise ValueError(
                f"learning_rate={learning_rate} would be ignored, because a Keras schedule has "
                "rates of its own; leave out learning_rate, or name a schedule such as "
                '"cosine".'
            )
    return rates


def warmup_share(warmup: float | None, schedule: Any) -> float:
    """Return the share of a phase over which the rate rises, 0.05 if none was given.

    Args:
        warmup: the share, or None.
        schedule: the schedule that begins with it.

    Raises:
        ValueError: for a share outside [0, 1), or a schedule without a warm-up.

    Example:
        >>> warmup_share(None, "cosine")
        0.05
    """
    if warmup is None:
        return 0.05
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a share of the phase in [0, 1), not {warmup}.")
    if schedule is None or isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        kind = "schedule=None" if schedule is None else "a Keras schedule"
        raise ValueError(
            f"warmup={warmup} would be ignored, because {kind} has no warm-up; leave out warmup, "
            'or name a schedule such as "cosine".'
        )
    return warmup


def require_one_schedule(
    schedule: Schedule | None,
    rates: Mapping[str, float | None],
    peers: Sequence[keras.callbacks.Callback],
    chosen: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Check that no rates are ignored, and that no other callback sets the learning rate.

    Args:
        schedule: schedule of the pipeline, None if the optimizer has one of its own.
        rates: peak rates of the phases; see :func:`peak_rates`.
        peers: the other callbacks.
        chosen: further settings of the pipeline's schedule; None where left out.

    Raises:
        ValueError: for settings that would be ignored, or a second callback that sets the rate.
    """
    peaks = {name: rate for name, rate in rates.items() if rate is not None}
    if schedule is None and peaks:
        raise ValueError(
            f"The learning rates {peaks} of HydraCallback would be ignored, because the optimizer "
            "was compiled with a schedule of its own; leave out one of the two."
        )
    for name, value in chosen.items() if schedule is None else ():
        if value is not None:
            raise ValueError(
                f"HydraCallback({name}={value!r}) would be ignored, because the optimizer was "
                "compiled with a schedule of its own; leave out one of the two."
            )
    for peer in peers if schedule is not None else ():
        if isinstance(peer, _SETTERS):
            raise ValueError(
                f"{type(peer).__name__} and HydraCallback would both set the learning rate; pass "
                f"HydraCallback(schedule=None) to let {type(peer).__name__} set it."
            )
