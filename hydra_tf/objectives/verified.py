"""What the objectives share that train on verified bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf import bounds
from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import current_slice
from hydra_tf.core.schedules import RAMPS
from hydra_tf.core.types import StepContext, require_linf_radius
from hydra_tf.objectives.base import Objective


@dataclass(frozen=True)
class Verification:
    """Watches verified accuracy where other objectives watch an attack.

    Args:
        epsilon: Linf radius in units of pixel values in [0, 1].
        method: how logits are bounded; see :func:`hydra_tf.bounds.bound`.
        samples: how many of each batch to look at, all of it when left out.

    Example:
        >>> Verification(0.1, "ibp").samples is None
        True
    """

    epsilon: float
    method: str
    samples: int | None = None

    def correct(self, model: Any, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Return booleans: no image of the ball is misclassified.

        Args:
            model: network that outputs logits.
            x: [batch, ...] images; of a part of a batch those are looked at that are among the
                first `samples` of the whole.
            y: [batch] labels.
        """
        count = tf.shape(x)[0]
        if self.samples is not None:
            count = tf.clip_by_value(self.samples - current_slice(count)[0], 0, count)
            # Where none is, one is bounded all the same: bounds of no image cannot be had.
            x, y = x[: tf.maximum(count, 1)], y[: tf.maximum(count, 1)]
        margins = bounds.margin_lower_bound(
            model, x, y, self.epsilon, method=self.method, rounding=False
        )
        others = ~tf.one_hot(y, tf.shape(margins)[1], on_value=True, off_value=False)
        return tf.reduce_all((margins > 0) | ~others, axis=1)[:count]


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
