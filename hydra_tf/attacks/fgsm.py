"""Fast gradient method (Goodfellow et al., ICLR 2015)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from hydra_tf.attacks.ascent import Evaluation, ascend, ascent_loop
from hydra_tf.attacks.base import ATTACKS, LossAttack, Start
from hydra_tf.attacks.gradients import UNUSED, Perturbed
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss, cross_entropy
from hydra_tf.attacks.norms import project, steepest_step
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Seed


@ATTACKS.register()
@dataclass(frozen=True)
class FGSM(LossAttack):
    """One step of length epsilon that increases the cross-entropy, from the image itself.

    In training, the step increases the objective's loss, from the objective's start.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].

    Example:
        >>> FGSM(epsilon=0.1).epsilon
        0.1
    """

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return the images after one step; see :meth:`GradientAttack.follow_gradients`."""

        def update(
            _: tf.Tensor, x_adv: Images, evaluation: Evaluation, found: tf.Tensor
        ) -> tuple[Images, tf.Tensor]:
            x_next = x_adv + self.epsilon * steepest_step(evaluation.gradient, self.norm)
            return project(x_next, x, self.norm, self.epsilon), evaluation.found

        unused = tf.fill([tf.shape(x)[0]], UNUSED)
        loss = functools.partial(cross_entropy, y)
        images, found = ascent_loop(predict, x, loss, update, unused, steps=1, rescue=True)
        return Perturbed(tf.stop_gradient(images), found)

    def climb(
        self,
        predict: Predict,
        x: Images,
        loss: Loss,
        start: Start,
        seed: Seed,
        epsilon_share: float | tf.Tensor = 1.0,
    ) -> Images:
        """Return the images after one step; see :meth:`LossAttack.climb`."""
        epsilon = epsilon_share * self.epsilon
        return ascend(
            predict, x, start(seed), loss,
            norm=self.norm, epsilon=epsilon, step_size=epsilon, steps=1,
        )  # fmt: skip
