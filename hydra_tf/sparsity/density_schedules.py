"""Density schedules: the density of a network during its prune phase, or during pretraining."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hydra_tf.core.registry import Registry
from hydra_tf.core.types import require_number
from hydra_tf.sparsity.topk import kept_count


@dataclass(frozen=True)
class DensitySchedule:
    """Maps a step of a phase to the density of the network from this step on."""

    def __call__(self, step: int, steps: int, density: float) -> float | None:
        """Return the density from a step on, or None if it stays as it is.

        Args:
            step: number of optimizer steps done in the phase.
            steps: number of optimizer steps of the phase.
            density: density at the end of the phase, in (0, 1].
        """
        raise NotImplementedError


DENSITY_SCHEDULES: Registry[DensitySchedule] = Registry("density schedule", "hydra_tf.sparsity")


@DENSITY_SCHEDULES.register("one_shot")
@dataclass(frozen=True)
class OneShot(DensitySchedule):
    """The density of the end during the whole phase, as in arXiv 2002.10509.

    Example:
        >>> OneShot()(0, 100, 0.1)
        0.1
    """

    def __call__(self, step: int, steps: int, density: float) -> float | None:
        """Return `density`; see :meth:`DensitySchedule.__call__`."""
        return density


@DENSITY_SCHEDULES.register("polynomial")
@DENSITY_SCHEDULES.register("cubic", power=3.0)
@DENSITY_SCHEDULES.register("linear", power=1.0)
@dataclass(frozen=True)
class Polynomial(DensitySchedule):
    """Density that falls from a first value to the last one (Zhu and Gupta, 2017, eq. 1).

    At the share p of its way it is ``density + (initial_density - density) * (1 - p) ** power``.

    Args:
        initial_density: density at the begin, in (0, 1]; before, no weight is pruned.
        begin: share of the phase, in [0, 1), at which the density begins to fall.
        end: share of the phase, above `begin` and at most 1, at which it is at its last value.
        updates: largest number of times that the density falls, at most once a step.
        power: exponent, above 0.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> falling = Polynomial(end=1.0, updates=2, power=1.0)
        >>> [falling(step, 9, 0.2) for step in range(9)]
        [1.0, None, None, None, 0.6, None, None, None, 0.2]
    """

    initial_density: float = 1.0
    begin: float = 0.0
    end: float = 0.5
    updates: int = 50
    power: float = 3.0

    def __post_init__(self) -> None:
        require_number("updates", self.updates, whole=True)
        for name in ("begin", "end", "power"):
            require_number(name, getattr(self, name))
        kept_count(self.initial_density, 1)
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                "begin and end of a density schedule are shares of the phase with "
                f"0 <= begin < end <= 1, not {self.begin} and {self.end}."
            )
        if self.updates < 1:
            raise ValueError(
                f"updates of a density schedule must be at least 1, not {self.updates}."
            )
        if not 0 < self.power < float("inf"):
            raise ValueError(
                f"power of a density schedule must be a finite number above 0, not {self.power}."
            )

    def __call__(self, step: int, steps: int, density: float) -> float | None:
        """Return the density at a step; see :meth:`DensitySchedule.__call__`."""
        # The last step is trained at the density of the end.
        first, last = int(self.begin * steps), max(0, min(round(self.end * steps), steps - 1))
        if step < first:
            return None
        if step >= last:
            return density
        interval = max(1, math.ceil((last - first) / self.updates))
        if (step - first) % interval:
            return None
        left = (1.0 - (step - first) / (last - first)) ** self.power
        return density + (self.initial_density - density) * left
