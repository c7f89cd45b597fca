"""CleverHans's PGD as an attack of this library, an independent reference."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import numpy as np

from hydra_tf.attacks.base import ATTACKS, GradientAttack
from hydra_tf.attacks.gradients import UNUSED, Perturbed, gradients_found
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.attacks.step_sizes import check_steps, step_size_or_default
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Logits, Seed


@ATTACKS.register()
@dataclass(frozen=True)
class CleverHansPGD(GradientAttack):
    """CleverHans 4.0 `projected_gradient_descent`: last iterate, no restarts.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps.
        step_size: length of a step, at most epsilon; ``2.5 * epsilon / steps`` when left out.
        random_start: start uniformly in the ball. CleverHans draws the start from TensorFlow's
            global generator: `tf.random.set_seed` seeds it, the seed of the call is ignored.

    Raises:
        ImportError: if CleverHans is not installed.

    Example:
        >>> CleverHansPGD(epsilon=0.1, steps=10).steps
        10
    """

    steps: int = 50
    step_size: float | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Checked here, without an import, so that a command fails before it starts its work.
        if importlib.util.find_spec("cleverhans") is None:
            raise ImportError(
                "The attack cleverhans_pgd needs CleverHans, which is not installed; run "
                'pip install "hydra_tf[cleverhans]", in a checkout pip install ".[cleverhans]".'
            )
        check_steps(self.steps, self.step_size)
        if self.step_size is not None and self.step_size > self.epsilon:
            raise ValueError(
                f"CleverHans needs a step_size of at most epsilon ({self.epsilon:g}), not "
                f"{self.step_size:g}."
            )

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return CleverHans's images; see :meth:`GradientAttack.follow_gradients`.

        CleverHans's gradients are neither rescued nor seen. A sample without a gradient stays
        where it starts, so that it is found by its gradient at the returned image and, without a
        random start, also at the image itself.
        """
        unused = tf.fill([tf.shape(x)[0]], UNUSED)
        if self.epsilon == 0:
            return Perturbed(x, unused)
        # AutoGraph warns about importlib.
        load = tf.autograph.experimental.do_not_convert(importlib.import_module)
        module = load("cleverhans.tf2.attacks.projected_gradient_descent")
        step_size = step_size_or_default(self.step_size, self.epsilon, self.steps)

        def connected(images: Images) -> Logits:
            # CleverHans fails on models without a path for gradients, such as one that rounds.
            logits = predict(images)
            return logits + tf.cast(0.0 * tf.reduce_sum(images), logits.dtype)

        def images() -> tuple[Images, tf.Tensor]:
            x_adv = module.projected_gradient_descent(
                connected,
                x,
                self.epsilon,
                min(step_size, self.epsilon),
                self.steps,
                {"linf": np.inf, "l2": 2}[self.norm],
                clip_min=0.0,
                clip_max=1.0,
                y=y,
                rand_init=self.random_start,
            )
            if not self.steps:
                return x_adv, unused
            found = _gradients_found(predict, x_adv, y)
            if not self.random_start:
                found = tf.maximum(found, _gradients_found(predict, x, y))
            return x_adv, found

        # TensorFlow's convolutions have no gradient for an empty batch.
        return Perturbed(*tf.cond(tf.shape(x)[0] > 0, images, lambda: (x, unused)))


def _gradients_found(predict: Predict, x: Images, y: Labels) -> tf.Tensor:
    """Return where the cross-entropy has a gradient."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        total = tf.reduce_sum(cross_entropy(y, predict(x)))
    zero = tf.UnconnectedGradients.ZERO
    return gradients_found(tape.gradient(total, x, unconnected_gradients=zero))
