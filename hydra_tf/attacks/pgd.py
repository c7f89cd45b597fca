"""Projected gradient descent with restarts (Madry et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hydra_tf.attacks.ascent import ascend_best
from hydra_tf.attacks.base import ATTACKS, LossAttack, Start
from hydra_tf.attacks.gradients import Perturbed
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import UNTARGETED, Loss
from hydra_tf.attacks.norms import random_start
from hydra_tf.attacks.restarts import Attempt, attack_repeatedly, climb_repeatedly
from hydra_tf.attacks.step_sizes import check_steps, step_size_or_default
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Seed


@ATTACKS.register()
@dataclass(frozen=True)
class PGD(LossAttack):
    """PGD that returns the best iterate, restarted for the samples that are not yet broken.

    A sample that a restart breaks has the best iterate of that restart and is left out of
    later ones. A sample that no restart breaks has the best iterate of the first. In training, the
    best iterate of all restarts is the one of the largest loss.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps per restart.
        step_size: length of a step in the same norm; ``2.5 * epsilon / steps`` when left out.
        restarts: independent starts.
        start: ``"uniform"`` in the ball, ``"normal"`` (the image plus 0.001 * N(0, I)),
            ``"stripes"`` (vertical stripes of random sign that reach the border of the ball), or
            ``"zero"`` (the image).
        loss: the loss to maximise: ``"ce"`` (cross-entropy) or ``"margin"``.

    Example:
        >>> PGD(epsilon=0.1, steps=10).rate
        0.025
    """

    steps: int = 50
    step_size: float | None = None
    restarts: int = 1
    start: Literal["uniform", "normal", "stripes", "zero"] = "uniform"
    loss: Literal["ce", "margin"] = "ce"
    loss_parameters: ClassVar[tuple[str, ...]] = ("loss",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, self.step_size)
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, not {self.restarts}.")

    @property
    def rate(self) -> float:
        """The step size, the default included."""
        return step_size_or_default(self.step_size, self.epsilon, self.steps)

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return the best images of all restarts; see :meth:`GradientAttack.follow_gradients`."""

        def restart(_: tf.Tensor, x: Images, y: Labels, seed: Seed) -> Attempt:
            return ascend_best(
                predict,
                x,
                random_start(x, self.norm, self.epsilon, seed, self.start),
                lambda logits: UNTARGETED[self.loss](y, logits),
                y,
                norm=self.norm,
                epsilon=self.epsilon,
                step_size=self.rate,
                steps=self.steps,
            )

        result = attack_repeatedly(restart, x, y, seed, self.restarts)
        return Perturbed(result.images, result.gradients)

    def climb(
        self,
        predict: Predict,
        x: Images,
        loss: Loss,
        start: Start,
        seed: Seed,
        epsilon_share: float | tf.Tensor = 1.0,
    ) -> Images:
        """Return the best iterates of all restarts; see :meth:`LossAttack.climb`."""

        def restart(seed: Seed) -> Images:
            return ascend_best(
                predict,
                x,
                start(seed),
                loss,
                None,
                norm=self.norm,
                epsilon=epsilon_share * self.epsilon,
                step_size=epsilon_share * self.rate,
                steps=self.steps,
            ).images

        return climb_repeatedly(restart, predict, loss, seed, self.restarts)
