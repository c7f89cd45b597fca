"""What a robust objective is, and what the adversarial ones share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf.attacks.ascent import ascend, check_steps, default_step_size
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss
from hydra_tf.attacks.norms import random_start
from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.core.types import Ball, LossTerms, Norm, StepContext


@dataclass(frozen=True)
class Objective:
    """A loss of a model on one batch, a pure function for use inside a graph."""

    def __call__(self, model: Any, x: tf.Tensor, y: tf.Tensor, context: StepContext) -> LossTerms:
        """Return the loss to minimise.

        Args:
            model: Keras model ``(x, training) -> logits``.
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] int32 labels.
            context: the step's seed and its place in the phase.
        """
        raise NotImplementedError

    def validation_attack(self) -> Any:
        """The attack to watch while training: a spec, a callable, or None without an adversary.

        A callable is ``(model, x, y, seed) -> images``.
        """
        return None

    def certificate(self) -> dict[str, Any] | None:
        """What the objective trains for where that can be proven, else None.

        ``measure`` is the name in reports (``"vra_s"``, ``"vra_m"`` or ``"vra_t"``), ``method``
        is ``"smoothing"`` or a bound, beside it stands its ``sigma`` or ``epsilon``.
        """
        return None


@dataclass(frozen=True)
class Replayed(Objective):
    """An objective that trains several times on each batch and perturbs it as it goes.

    The gradient that moves the weights moves the perturbation too, and the perturbation
    is handed on from batch to batch.

    Args:
        replays: steps on each batch.
    """

    replays: int = 1

    def __call__(
        self,
        model: Any,
        x: tf.Tensor,
        y: tf.Tensor,
        context: StepContext,
        perturbed: tf.Tensor | None = None,
    ) -> LossTerms:
        """Return the loss to minimise; see :meth:`Objective.__call__`.

        Args:
            model: as there.
            x: as there.
            y: as there.
            context: as there.
            perturbed: [batch, ...] images to train on, `x` itself when left out.
        """
        raise NotImplementedError

    def start_batch(self, x: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
        """Return the perturbed images of a new batch, given the perturbation of the last."""
        raise NotImplementedError

    def update_perturbed(
        self, x: tf.Tensor, perturbed: tf.Tensor, gradient: tf.Tensor
    ) -> tf.Tensor:
        """Return the perturbed images for the next step, given the loss's gradient there."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adversarial(Objective):
    """An objective with an inner PGD in a norm ball.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: steps of the inner attack.
        step_size: their length; ``2.5 * epsilon / steps`` when left out.
        start: where the inner attack begins: ``"uniform"`` in the ball, ``"normal"`` at
            x + 0.001 * N(0, I), or ``"zero"`` at x.
        ramp: share of the phase, in [0, 1], over which epsilon grows linearly from 0.
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255
    steps: int = 10
    step_size: float | None = None
    start: Literal["uniform", "normal", "zero"] = "uniform"
    ramp: float = 0.0

    def __post_init__(self) -> None:
        Ball(self.norm, self.epsilon)  # refuses what is no ball
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp is a share of the phase in [0, 1], not {self.ramp}.")
        check_steps(self.steps, self.step_size)

    def validation_attack(self) -> dict[str, Any] | None:
        """PGD of twice the training steps in the same ball, from a uniform start."""
        return {"name": "pgd", "norm": self.norm, "epsilon": self.epsilon, "steps": 2 * self.steps}

    def inner(self, predict: Predict, x: tf.Tensor, loss: Loss, context: StepContext) -> tf.Tensor:
        """Return images in the ball, in [0, 1], that raise `loss`; no gradient flows back."""
        grown = 1.0 if self.ramp == 0 else tf.minimum(1.0, context.progress / self.ramp)
        epsilon = grown * self.epsilon
        return ascend(
            predict,
            x,
            random_start(x, self.norm, epsilon, context.seed, self.start),
            loss,
            norm=self.norm,
            epsilon=epsilon,
            step_size=grown * default_step_size(self.step_size, self.epsilon, self.steps),
            steps=self.steps,
        )


def kl_divergence(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """KL(softmax(target) || softmax(logits)) of each sample in nats, [batch].

    Example:
        >>> kl_divergence([[0.0, 0.0]], [[0.0, 0.0]]).numpy().tolist()
        [0.0]
    """
    log_p = tf.nn.log_softmax(tf.cast(target, tf.float32))
    log_q = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


OBJECTIVES: Registry[Objective] = Registry("objective", "hydra_tf.objectives")
build = OBJECTIVES.build
