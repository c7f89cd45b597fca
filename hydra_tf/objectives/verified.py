"""What the objectives share that train on verified bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf.core.lazy import tf
from hydra_tf.core.schedules import RAMPS
from hydra_tf.core.types import StepContext, require_linf_radius
from hydra_tf.objectives.base import Objective


@dataclass(frozen=True)
class Verified(Objective):
    """An objective with a radius that grows from 0 in every phase.

    Args:
        epsilon: Linf radius in units of pixel values in [0, 1].
        ramp: share of the phase, in [0, 1], over which epsilon grows.
        shape: ``"linear"``, or ``"smoothed"``, which leaves 0 slowly.
    """

    epsilon: float = 2 / 255
    ramp: float = 0.5
    shape: Literal["linear", "smoothed"] = "linear"

    def __post_init__(self) -> None:
        require_linf_radius(self.epsilon)
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp is a share of the phase in [0, 1], not {self.ramp}.")
        if self.shape not in RAMPS:
            raise ValueError(f'shape must be "linear" or "smoothed", not {self.shape!r}.')

    def grown(self, context: StepContext) -> Any:
        """Return the share of the full radius at a context, a scalar in [0, 1]."""
        if self.ramp == 0:
            return tf.constant(1.0)
        return RAMPS[self.shape](tf.minimum(1.0, context.progress / self.ramp))
