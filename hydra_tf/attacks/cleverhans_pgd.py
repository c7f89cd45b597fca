"""CleverHans's PGD as an attack of this library: an independent judge, and a choice in training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hydra_tf.attacks.base import ATTACKS, LossAttack, Start
from hydra_tf.attacks.gradients import UNUSED, Perturbed, gradients_found
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss, cross_entropy
from hydra_tf.attacks.norms import random_start
from hydra_tf.attacks.step_sizes import check_steps, step_size_or_default
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Logits, Seed


@ATTACKS.register()
@dataclass(frozen=True)
class CleverHansPGD(LossAttack):
    """CleverHans 4.0 PGD: last iterate, no restarts.

    The steps are those of CleverHans's `projected_gradient_descent`, computed by its
    `fast_gradient_method` and `clip_eta`, with the same images as result. The loop around them is
    ours: CleverHans's own draws the start from TensorFlow's global generator, so that a resumed run
    would have other bits, unrolls all steps in the graph, and takes no epsilon that grows.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps.
        step_size: length of a step, at most epsilon; ``2.5 * epsilon / steps``, but at most
            epsilon, when left out.
        random_start: start uniformly in the ball; in training, where the objective starts.

    Example:
        >>> CleverHansPGD(epsilon=0.1, steps=10).steps
        10
    """

    steps: int = 50
    step_size: float | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, self.step_size)
        if self.step_size is not None and self.step_size > self.epsilon:
            raise ValueError(
                f"CleverHans needs a step_size of at most epsilon ({self.epsilon:g}), not "
                f"{self.step_size:g}."
            )

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return CleverHans's images; see :meth:`GradientAttack.follow_gradients`.

        CleverHans's gradients are neither rescued nor seen. A sample without a gradient stays
        where it starts, so that it is found by its gradients at the start and at the result.
        """
        kind = "uniform" if self.random_start else "zero"
        first = random_start(x, self.norm, self.epsilon, seed, kind)
        loss = functools.partial(cross_entropy, y)
        images = self.climb(predict, x, loss, lambda _: first, seed)
        unused = tf.fill([tf.shape(x)[0]], UNUSED)
        if not (self.steps and self.epsilon):
            return Perturbed(images, unused)

        def found() -> tf.Tensor:
            return tf.maximum(*(_gradients_found(predict, z, loss) for z in (first, images)))

        # TensorFlow's convolutions have no gradient for an empty batch.
        return Perturbed(images, tf.cond(tf.shape(x)[0] > 0, found, lambda: unused))

    def climb(
        self,
        predict: Predict,
        x: Images,
        loss: Loss,
        start: Start,
        seed: Seed,
        epsilon_share: float | tf.Tensor = 1.0,
    ) -> Images:
        """Return CleverHans's images for any loss; see :meth:`LossAttack.climb`."""
        from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
        from cleverhans.tf2.utils import clip_eta

        step_size = step_size_or_default(self.step_size, self.epsilon, self.steps)
        step_size, order = min(step_size, self.epsilon), {"linf": np.inf, "l2": 2}[self.norm]
        model_fn, loss_fn = _as_cleverhans(predict, loss)

        def body(i: tf.Tensor, x_adv: Images) -> tuple[tf.Tensor, Images]:
            x_adv = fast_gradient_method(
                model_fn, x_adv, epsilon_share * step_size, order, loss_fn,
                clip_min=0.0, clip_max=1.0, y=0,
            )  # fmt: skip
            eta = clip_eta(x_adv - x, order, epsilon_share * self.epsilon)
            return i + 1, tf.clip_by_value(x + eta, 0.0, 1.0)

        # An empty batch takes no steps: TensorFlow's convolutions have no gradient there.
        steps = tf.where(tf.shape(x)[0] > 0, self.steps, 0)
        state = (tf.constant(0), start(seed))
        return tf.stop_gradient(tf.while_loop(lambda i, _: i < steps, body, state)[1])


def _as_cleverhans(
    predict: Predict, loss: Loss
) -> tuple[Callable[[Images], Logits], Callable[..., tf.Tensor]]:
    """Return model and loss as CleverHans calls them, which converts both by AutoGraph."""

    @tf.autograph.experimental.do_not_convert
    def model_fn(images: Images) -> Logits:
        # CleverHans fails on models without a path for gradients, such as one that rounds.
        logits = predict(images)
        return logits + tf.cast(0.0 * tf.reduce_sum(images), logits.dtype)

    @tf.autograph.experimental.do_not_convert
    def loss_fn(labels: object, logits: Logits) -> tf.Tensor:
        del labels  # `loss` knows what it compares the logits with
        return loss(logits)

    return model_fn, loss_fn


def _gradients_found(predict: Predict, x: Images, loss: Loss) -> tf.Tensor:
    """Return where the loss has a gradient."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        total = tf.reduce_sum(loss(predict(x)))
    zero = tf.UnconnectedGradients.ZERO
    return gradients_found(tape.gradient(total, x, unconnected_gradients=zero))
