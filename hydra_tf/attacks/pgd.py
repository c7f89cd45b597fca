"""Projected gradient descent with restarts (Madry et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf.attacks.ascent import ascend_best, check_steps, default_step_size
from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import cross_entropy, margin
from hydra_tf.attacks.norms import random_start
from hydra_tf.attacks.survivors import attack_again
from hydra_tf.core.lazy import tf

LOSSES = {"ce": cross_entropy, "margin": margin}


@ATTACKS.register()
@dataclass(frozen=True)
class PGD(Attack):
    """PGD that keeps the best iterate, restarted for the samples that still hold.

    A sample that a restart breaks keeps that restart's best iterate and is left out of the
    next ones; one that none breaks keeps the best iterate of the first.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps per restart.
        step_size: length of a step in the same norm; ``2.5 * epsilon / steps`` when left out.
        restarts: independent starts.
        start: ``"uniform"`` in the ball, ``"normal"`` beside the image, or ``"zero"``.
        loss: what is climbed: ``"ce"`` (cross-entropy) or ``"margin"``.

    Example:
        >>> PGD(epsilon=0.1, steps=10).rate
        0.025
    """

    steps: int = 50
    step_size: float | None = None
    restarts: int = 1
    start: Literal["uniform", "normal", "zero"] = "uniform"
    loss: Literal["ce", "margin"] = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, self.step_size)
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, not {self.restarts}.")

    @property
    def rate(self) -> float:
        """The step size in force."""
        return default_step_size(self.step_size, self.epsilon, self.steps)

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the best images of all restarts; see :meth:`Attack.perturb`."""

        def restart(_: Any, x: Any, y: Any, seed: Any) -> tuple[Any, Any]:
            return ascend_best(
                predict,
                x,
                random_start(x, self.norm, self.epsilon, seed, self.start),
                lambda logits: LOSSES[self.loss](y, logits),
                y,
                norm=self.norm,
                epsilon=self.epsilon,
                step_size=self.rate,
                steps=self.steps,
            )

        return attack_again(restart, x, y, seed, self.restarts)[0]
