"""Fast adaptive boundary attack, targeted (Croce and Hein, ICML 2020, arXiv 1907.02044)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from hydra_tf.attacks.ascent import Evaluation, ascent_loop
from hydra_tf.attacks.base import ATTACKS, GradientAttack
from hydra_tf.attacks.gradients import UNUSED, Perturbed
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import likely_targets, misclassified, targeted_margin
from hydra_tf.attacks.norms import broadcast_to_images, choose_images, lengths, project
from hydra_tf.attacks.restarts import Attempt, attack_repeatedly
from hydra_tf.attacks.step_sizes import check_steps
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Norm, Seed

OVERSHOOT = 1.05  # eta: step length as a multiple of the distance to the linearised boundary
BACKWARD = 0.9  # beta: share of the change that is kept once the sample is broken
MAX_BIAS = 0.1  # alpha_max: largest weight of the step from the image itself
_LARGE = 1e30  # larger than any change of a pixel


@ATTACKS.register()
@dataclass(frozen=True)
class FAB(GradientAttack):
    """Targeted FAB: the smallest change to each likely class, at any scale of the logits.

    A change that breaks a sample counts if it lies in the ball. A sample that is misclassified,
    or that is not broken, is returned unchanged; a broken one has the smallest change towards
    the first target that breaks it. The attack draws no random numbers.

    The final search of the paper, which moves the result closer to the boundary, is left out:
    rounding on another device could move such an image back across the boundary.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: steps towards the boundary of each target.
        targets: number of wrong classes to target, the most likely first, at most all.

    Example:
        >>> FAB(epsilon=0.1, targets=3).targets
        3
    """

    steps: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)
        if self.targets < 1:
            raise ValueError(f"targets must be at least 1, not {self.targets}.")

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return the misclassified images in the ball; see :meth:`GradientAttack.follow_gradients`.

        Raises:
            ValueError: for a model of fewer than two classes.
        """
        targets = likely_targets(y, predict(x), self.targets)
        labels = tf.concat([y[:, None], targets], axis=1)

        def attempt(i: tf.Tensor, x: Images, labels: tf.Tensor, _: Seed) -> Attempt:
            y, target = labels[:, 0], tf.gather(labels, 1 + i, batch_dims=1)
            nearest, found = self._nearest_misclassified(predict, x, y, target)
            x_adv = project(nearest, x, self.norm, self.epsilon)
            broken = misclassified(y, predict(x_adv))
            return Attempt(choose_images(broken, x_adv, x), broken, found)

        result = attack_repeatedly(attempt, x, labels, seed, targets.shape[1])
        return Perturbed(result.images, result.gradients)

    def _nearest_misclassified(
        self, predict: Predict, x: Images, y: Labels, target: Labels
    ) -> tuple[Images, tf.Tensor]:
        """Return the nearest misclassified image that is met (Algorithm 1), `x` if none is.

        The second result tells which gradients were found.
        """

        def update(
            _: tf.Tensor, x_now: Images, evaluation: Evaluation,
            best: Images, distance: tf.Tensor, found: tf.Tensor,
        ) -> tuple[Images, Images, tf.Tensor, tf.Tensor]:  # fmt: skip
            x_next = _step_to_boundary(x, x_now, evaluation, self.norm)
            wrong = misclassified(y, predict(x_next))
            next_distance = tf.reshape(lengths(x_next - x, self.norm), [-1])
            nearer = wrong & (next_distance < distance)
            best = choose_images(nearer, x_next, best)
            backward = x + BACKWARD * (x_next - x)
            x_next = choose_images(wrong, backward, x_next)
            found = tf.maximum(found, evaluation.found)
            return x_next, best, tf.where(nearer, next_distance, distance), found

        # A misclassified image has distance 0, which no other image improves.
        distance = tf.where(misclassified(y, predict(x)), 0.0, np.float32(np.inf))
        loss = functools.partial(targeted_margin, y, target)
        _, best, _, found = ascent_loop(
            predict, x, loss, update, x, distance, tf.fill([tf.shape(x)[0]], UNUSED),
            steps=self.steps, rescue=True,
        )  # fmt: skip
        return best, found


def _step_to_boundary(x: Images, x_now: Images, evaluation: Evaluation, norm: Norm) -> Images:
    """Combine steps from `x_now` and from `x` to the linearised boundary (section 2.3)."""
    gradient, losses = evaluation.gradient, evaluation.losses
    axes = list(range(1, len(x.shape)))
    losses_at_x = losses + tf.reduce_sum(gradient * (x - x_now), axes)
    origins = tf.concat([x_now, x], 0)
    gradients = tf.concat([gradient, gradient], 0)
    steps = step_to_hyperplane(origins, gradients, -tf.concat([losses, losses_at_x], 0), norm)
    from_now, from_x = tf.split(origins + OVERSHOOT * steps, 2)
    distance_now, distance_x = tf.split(lengths(steps, norm), 2)
    bias = tf.math.divide_no_nan(distance_now, distance_now + distance_x)
    bias = tf.minimum(bias, MAX_BIAS)
    return tf.clip_by_value((1.0 - bias) * from_now + bias * from_x, 0.0, 1.0)


def step_to_hyperplane(x: Images, slope: tf.Tensor, increase: tf.Tensor, norm: Norm) -> tf.Tensor:
    """Return the smallest changes of `x` in [0, 1] that increase linear functions as asked.

    The absolute change of pixel j is ``min(t * s_j, limit_j)``, where limit_j is the distance
    to the end of [0, 1] and s_j is 1 in the Linf norm, ``|slope_j|`` in the L2 norm. The
    increase is concave and piecewise linear in t, so Newton's method from t = 0 never
    overshoots and reaches the exact t once no further pixel reaches its limit. If the increase
    is out of reach, all pixels go to their limits.

    Args:
        x: [batch, ...] images in [0, 1].
        slope: [batch, ...] gradients of the linear functions.
        increase: [batch] required increase; a decrease where negative.
        norm: the norm that is minimised, ``"linf"`` or ``"l2"``.

    Example:
        >>> x, slope = tf.constant([[0.5, 0.9]]), tf.constant([[1.0, 2.0]])
        >>> step_to_hyperplane(x, slope, tf.constant([0.4]), "linf").numpy().round(4).tolist()
        [[0.2, 0.1]]
    """
    axes = list(range(1, len(x.shape)))
    # The result depends on ratios only. Slopes of at most 1 do not overflow when squared.
    largest = tf.reduce_max(tf.abs(slope), axes)
    slope = tf.math.divide_no_nan(slope, broadcast_to_images(largest, x))
    slope *= broadcast_to_images(tf.sign(increase), x)
    increase = tf.math.divide_no_nan(tf.abs(increase), largest)
    limit = tf.where(slope > 0, 1.0 - x, x)
    steepness = tf.abs(slope)

    def unlimited_change(t: tf.Tensor) -> tf.Tensor:
        # In the Linf norm without a factor of ones, on which TensorFlow's optimizer crashes if
        # the batch is known to be empty.
        t = broadcast_to_images(t, x)
        return t if norm == "linf" else t * steepness

    def body(
        t: tf.Tensor, at_limit: tf.Tensor, _: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        limited_increase = tf.reduce_sum(tf.where(at_limit, steepness * limit, 0.0), axes)
        rates = steepness if norm == "linf" else tf.square(steepness)
        rate = tf.reduce_sum(tf.where(at_limit, 0.0, rates), axes)
        t_next = tf.where(rate > 0, (increase - limited_increase) / rate, t)
        # An infinite t times a slope of 0 would be NaN.
        t = tf.maximum(t, tf.minimum(t_next, _LARGE))
        now_at_limit = at_limit | (unlimited_change(t) >= limit)
        return t, now_at_limit, tf.reduce_any(now_at_limit & ~at_limit)

    start = tf.zeros_like(increase), tf.zeros_like(x, tf.bool), tf.constant(True)
    t, _, _ = tf.while_loop(lambda *state: state[2], body, start)
    return tf.sign(slope) * tf.minimum(unlimited_change(t), limit)
