"""The base class of objectives that train on verified bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hydra_tf.core.lazy import tf
from hydra_tf.core.schedules import RAMPS
from hydra_tf.core.types import StepContext, require_linf_radius
from hydra_tf.objectives.base import Objective, check_ramp, ramp_value


@dataclass(frozen=True)
class Verified(Objective):
    """An objective on an Linf ball whose epsilon grows from 0 in every phase.

    Args:
        epsilon: Linf radius in units of pixel values in [0, 1].
        ramp: share of the phase, in [0, 1], over which epsilon grows.
        shape: growth of epsilon: ``"linear"``, or ``"smoothed"``, which starts slowly.

    Raises:
        ValueError: for a parameter out of range.
    """

    epsilon: float = 2 / 255
    ramp: float = 0.5
    shape: Literal["linear", "smoothed"] = "linear"

    def __post_init__(self) -> None:
        require_linf_radius(self.epsilon)
        check_ramp(self.ramp)
        if self.shape not in RAMPS:
            raise ValueError(f'shape must be "linear" or "smoothed", not {self.shape!r}.')

    def epsilon_share(self, context: StepContext) -> tf.Tensor:
        """Return the share of the full epsilon at a step, a scalar in [0, 1]."""
        return ramp_value(context, self.ramp, self.shape)
