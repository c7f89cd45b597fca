"""Free adversarial training (Shafahi et al., NeurIPS 2019; arXiv 1904.12843, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.attacks.ascent import check_steps
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.attacks.norms import project, steepest_step
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Ball, LossTerms, Norm, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Replayed


@OBJECTIVES.register()
@dataclass(frozen=True)
class Free(Replayed):
    """CE(f(x + delta), y), every batch replayed, delta and weights moved by one backward pass.

    Every replay is a step of the optimizer and one of steepest ascent for delta, which is
    then brought back into the ball and x + delta into [0, 1]. The next batch takes delta over.
    A step costs what a natural one costs, an epoch `replays` times as much: give it that many
    fewer epochs. Learning-rate schedules of :class:`hydra_tf.HydraCallback` count batches and
    reach their end; a schedule inside the optimizer counts its steps, `replays` to a batch.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        replays: steps on each batch, n in arXiv 2002.10509 and m in the paper.
        step_size: length of a step of delta in the same norm; epsilon when left out.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("free:epsilon=4/255").replays
        4
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255
    replays: int = 4
    step_size: float | None = None

    def __post_init__(self) -> None:
        Ball(self.norm, self.epsilon)  # refuses what is no ball
        check_steps(0, self.step_size)
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, not {self.replays}.")

    def validation_attack(self) -> dict[str, Any]:
        """PGD of 20 steps in the same ball, from a uniform start."""
        return {"name": "pgd", "norm": self.norm, "epsilon": self.epsilon, "steps": 20}

    def __call__(
        self,
        model: Any,
        x: tf.Tensor,
        y: tf.Tensor,
        context: StepContext,
        perturbed: tf.Tensor | None = None,
    ) -> LossTerms:
        """Return the mean cross-entropy at `perturbed`; see :meth:`Replayed.__call__`."""
        # Only metrics read the benign logits, as in adversarial training.
        logits = tf.stop_gradient(model(x, training=False))
        adversarial = model(x if perturbed is None else perturbed, training=True)
        return LossTerms(tf.reduce_mean(cross_entropy(y, adversarial)), logits, adversarial)

    def start_batch(self, x: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
        """Return x + delta, in the ball and in [0, 1]."""
        return project(x + delta, x, self.norm, self.epsilon)

    def update_perturbed(
        self, x: tf.Tensor, perturbed: tf.Tensor, gradient: tf.Tensor
    ) -> tf.Tensor:
        """Return the images after one step of ascent, in the ball and in [0, 1]."""
        # Where loss scaling overflows there is no gradient, and no step is made.
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
        step_size = self.epsilon if self.step_size is None else self.step_size
        moved = perturbed + step_size * steepest_step(gradient, self.norm)
        return project(moved, x, self.norm, self.epsilon)
