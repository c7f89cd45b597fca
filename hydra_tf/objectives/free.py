"""Free adversarial training (Shafahi et al., NeurIPS 2019; arXiv 1904.12843, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.attacks.norms import project, steepest_step
from hydra_tf.attacks.step_sizes import check_steps
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Ball, Classifier, Images, Labels, LossTerms, Norm, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Replayed


@OBJECTIVES.register()
@dataclass(frozen=True)
class Free(Replayed):
    """CE(f(x + delta), y) on replayed batches; one backward pass updates weights and delta.

    Every replay is one optimizer step and one step of steepest ascent for delta, which is then
    projected so that x + delta is in the ball and in [0, 1]. The next batch starts from this
    delta. A step costs as much as a natural one, and an epoch `replays` times as much, so divide
    the number of epochs by `replays`. Learning-rate schedules of :class:`hydra_tf.HydraCallback`
    count batches; a schedule inside the optimizer counts steps, `replays` per batch.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        replays: optimizer steps on each batch, n in arXiv 2002.10509 and m in the paper.
        step_size: length of an ascent step in the same norm; epsilon when left out.

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
        Ball(self.norm, self.epsilon)  # validates norm and epsilon
        check_steps(0, self.step_size)
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, not {self.replays}.")

    def validation_attack(self) -> dict[str, Any]:
        """Return PGD with 20 steps in the same ball, from a uniform start."""
        return {"name": "pgd", "norm": self.norm, "epsilon": self.epsilon, "steps": 20}

    def __call__(
        self,
        model: Classifier,
        x: Images,
        y: Labels,
        context: StepContext,
        perturbed: Images | None = None,
    ) -> LossTerms:
        """Return the mean cross-entropy at `perturbed`; see :meth:`Replayed.__call__`."""
        # Only metrics use the benign logits.
        logits = tf.stop_gradient(model(x, training=False))
        adversarial = model(x if perturbed is None else perturbed, training=True)
        return LossTerms(tf.reduce_mean(cross_entropy(y, adversarial)), logits, adversarial)

    def start_batch(self, x: Images, delta: tf.Tensor) -> Images:
        """Return x + delta, projected into the ball and [0, 1]."""
        return project(x + delta, x, self.norm, self.epsilon)

    def update_perturbed(self, x: Images, perturbed: Images, gradient: tf.Tensor) -> Images:
        """Return the images after one ascent step, projected into the ball and [0, 1]."""
        # Loss scaling may overflow; such entries are not updated.
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
        step_size = self.epsilon if self.step_size is None else self.step_size
        stepped = perturbed + step_size * steepest_step(gradient, self.norm)
        return project(stepped, x, self.norm, self.epsilon)
