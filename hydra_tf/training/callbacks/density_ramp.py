"""The density of a phase, set before the steps at which a schedule changes it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.core.graphs import converted
from hydra_tf.core.registry import unknown
from hydra_tf.sparsity.allocation import Allocation, allocation_of
from hydra_tf.sparsity.density_schedules import DENSITY_SCHEDULES, DensitySchedule, OneShot
from hydra_tf.sparsity.methods import PruningMethod
from hydra_tf.sparsity.model import layer_densities, set_density
from hydra_tf.training.callbacks.starting_scores import set_starting_scores

_PHASES = ("prune", "pretrain")
_TOLERANCE = 1e-6  # schedules of TFMOT compute in float32


class DensityRamp:
    """The densities of a phase.

    Args:
        schedule: a density schedule or its spec, such as ``"cubic:end=0.5"``; a `PruningSchedule`
            of TFMOT, or a callable like it, which maps a step, counted from 1, to (whether to
            change the density, sparsity); or None for ``"one_shot"``.
        density: density at the end of the phase.
        phase: ``"prune"``, or ``"pretrain"`` for gradual pruning.

    Raises:
        ValueError: for an unknown schedule or phase, a parameter out of range, or gradual pruning
            with a schedule that does not change the density.
        TypeError: for something that is not a schedule.

    Example:
        >>> ramp = DensityRamp("linear:end=1,updates=2", 0.2)
        >>> ramp.prepare(9)
        >>> ramp.densities.tolist()
        [1.0, 1.0, 1.0, 1.0, 0.6, 0.6, 0.6, 0.6, 0.2]
    """

    def __init__(self, schedule: Any, density: float, phase: str = "prune") -> None:
        self.schedule = DENSITY_SCHEDULES.build("one_shot" if schedule is None else schedule)
        self.density, self.phase = density, phase
        if phase not in _PHASES:
            raise ValueError(unknown("phase of a density schedule", phase, _PHASES))
        if phase != "prune" and self.is_constant:
            raise ValueError(
                f'A density schedule in phase "{phase}" must change the density, but the density '
                'is the same during the whole phase; pass a density_schedule such as "cubic".'
            )
        self.densities = np.empty(0)  # of each step
        self.current: float | None = None  # which was set last
        self.steps_per_execution = 1

    @property
    def is_constant(self) -> bool:
        """Whether the density is the same during the whole phase."""
        return isinstance(self.schedule, OneShot)

    @property
    def is_gradual(self) -> bool:
        """Whether the density falls during pretraining."""
        return self.phase == "pretrain"

    def is_in(self, phase: str) -> bool:
        """Return whether the density changes in a phase."""
        return phase == self.phase and not self.is_constant

    def require_phase(self, plan: Collection[str]) -> None:
        """Check that the phase in which the density changes is one of a pipeline.

        Args:
            plan: names of the phases of the pipeline.

        Raises:
            ValueError: if it is not.
        """
        needs = {"prune": 'prune_epochs and a method with a prune phase, such as "hydra"'}
        if not self.is_constant and self.phase not in plan:
            raise ValueError(
                f"density_schedule changes the density in the {self.phase} phase, but the phases "
                f"are {', '.join(plan)}; set {needs.get(self.phase, 'pretrain_epochs')}, or "
                "another density_schedule_phase."
            )

    def prepare(self, steps: int, steps_per_execution: int = 1) -> None:
        """Compute the densities of all steps of the phase.

        Args:
            steps: number of optimizer steps of the phase.
            steps_per_execution: number of steps between two calls of :meth:`apply`.

        Raises:
            ValueError: for a density outside (0, 1], or a schedule that does not end at the
                density of the phase.
        """
        self.steps_per_execution, self.current = steps_per_execution, None
        schedule: Any = self.schedule
        if isinstance(schedule, DensitySchedule):
            changes = [schedule(step, steps, self.density) for step in range(steps)]
        else:
            changes = _densities_of_tfmot(schedule, steps)
        densities, last = [], 1.0
        for change in changes:
            last = last if change is None else float(change)
            densities.append(last)
        self.densities = np.array(densities)
        if steps and not (self.densities.min() > 0 and self.densities.max() <= 1):
            raise ValueError(
                f"The density schedule {schedule!r} leaves (0, 1]: its densities are from "
                f"{self.densities.min():g} to {self.densities.max():g}."
            )
        if steps and abs(last - self.density) > _TOLERANCE:
            raise ValueError(
                f"The density schedule {schedule!r} ends at a density of {last:g} after the "
                f"{steps} steps of the {self.phase} phase, but density={self.density:g}; make both "
                "equal (a density is 1 - sparsity), or change the steps of the schedule."
            )
        self.densities[np.abs(self.densities - self.density) <= _TOLERANCE] = self.density

    @property
    def highest(self) -> float:
        """The largest density of the phase, once it is prepared."""
        return float(np.max(self.densities, initial=self.density))

    def at(self, step: int) -> float:
        """Return the density for the steps from `step` until the next call of :meth:`apply`."""
        last = min(step + self.steps_per_execution, len(self.densities)) - 1
        return float(self.densities[max(0, last)])

    def resume(self, step: int, steps_per_epoch: int) -> None:
        """Take the density of the last step as set, if it is not known, when an epoch begins.

        Args:
            step: number of optimizer steps done in the phase.
            steps_per_epoch: number of optimizer steps of an epoch.
        """
        if self.current is None and step:
            last = steps_per_epoch % self.steps_per_execution or self.steps_per_execution
            self.current = self.at(step - last)

    def start(self) -> float:
        """Return the density of the first steps of the phase, and take it as set."""
        self.current = self.at(0)
        return self.current

    def apply(
        self,
        model: keras.Model,
        step: int,
        allocation: Any,
        granularity: str,
        method: PruningMethod | None = None,
    ) -> None:
        """Set the density of a model for the next steps, if it changes.

        Args:
            model: a :class:`hydra_tf.RobustModel`.
            step: number of optimizer steps done in the phase.
            allocation: as in :func:`hydra_tf.set_density`.
            granularity: as in :func:`hydra_tf.set_density`.
            method: pruning method that computes the scores again before; None if the scores of the
                model are used.
        """
        density = self.at(step)
        if density != self.current:
            if method is not None:
                set_starting_scores(model, method)
            set_density(model, density, allocation, granularity)
            self.current = density

    def is_falling_in(self, phase: str) -> bool:
        """Return whether the density that was set last in a phase is not that of its end."""
        return self.is_in(phase) and self.current not in (None, self.density)

    def check_budgets(self, model: keras.Model, allocation: Any, granularity: str) -> None:
        """Raise the errors now that would otherwise occur when densities are set.

        Args:
            model: a model with masked layers.
            allocation: as in :func:`hydra_tf.set_density`.
            granularity: as in :func:`hydra_tf.set_density`.

        Raises:
            ValueError: for a budget that cannot be met.
        """
        # Whether a budget can be met does not depend on the scores, except for a callable.
        if isinstance(allocation_of(allocation), Mapping | Allocation):
            for density in {self.density, self.highest}:
                layer_densities(model, density, allocation, granularity)

    def arrays(self) -> dict[str, Any]:
        """Return the current density as an array for a checkpoint."""
        return {} if self.current is None else {"ramp_density": np.float64(self.current)}

    def load_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Set the current density from the arrays of a checkpoint."""
        self.current = float(arrays["ramp_density"]) if "ramp_density" in arrays else None


def schedule_config(schedule: Any) -> Any:
    """Return what identifies a schedule in a checkpoint.

    Args:
        schedule: as for :class:`DensityRamp`.

    Example:
        >>> schedule_config("linear")["power"]
        1.0
    """
    if schedule is None:
        return None
    schedule = DENSITY_SCHEDULES.build(schedule)
    return DENSITY_SCHEDULES.config(schedule) if isinstance(schedule, DensitySchedule) else schedule


def _densities_of_tfmot(schedule: Any, steps: int) -> list[float | None]:
    """Return the density at each step, None where a pruning schedule of TFMOT changes nothing."""
    in_graph = converted(schedule)  # as TFMOT traces schedules

    @functools.partial(tf.function, autograph=False)
    def table() -> tf.Tensor:
        def row(step: tf.Tensor) -> tf.Tensor:
            changes, sparsity = in_graph(step)
            density = 1.0 - tf.cast(sparsity, tf.float32)
            return tf.where(tf.convert_to_tensor(changes), density, np.nan)

        def body(step: tf.Tensor, rows: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            return step + 1, rows.write(tf.cast(step - 1, tf.int32), row(step))

        rows = tf.TensorArray(tf.float32, steps)
        # TFMOT counts the first step as 1. An error within tf.map_fn would leave a changed scope.
        first = tf.constant(1, tf.int64)
        return tf.while_loop(lambda step, _: step <= steps, body, (first, rows))[1].stack()

    try:
        densities = np.asarray(table(), np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            'A density schedule must be a spec such as "cubic:end=0.5", or a PruningSchedule of '
            f"TFMOT, which maps a step to (should_prune, sparsity), not {schedule!r}: {error}"
        ) from error
    return [None if np.isnan(density) else float(density) for density in densities]
