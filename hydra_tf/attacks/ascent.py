"""The ascent loop of all gradient attacks, and projected steepest ascent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hydra_tf.attacks.gradients import MISSING, UNUSED, gradients_found, rescued_slope
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss, misclassified
from hydra_tf.attacks.norms import choose_images, projection, steepest_step
from hydra_tf.attacks.restarts import Attempt
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Logits, Norm


class Evaluation(NamedTuple):
    """The model and the loss at an iterate.

    Args:
        gradient: [batch, ...] gradient of each sample's loss for its image.
        logits: [batch, classes].
        losses: [batch].
        found: [batch] int32, which gradient was found, if the ascent rescues gradients; see
            :mod:`hydra_tf.attacks.gradients`.
    """

    gradient: tf.Tensor
    logits: Logits
    losses: tf.Tensor
    found: tf.Tensor | None = None


def ascent_loop(
    predict: Predict,
    start: Images,
    loss: Loss,
    update: Callable[..., tuple[Any, ...]],
    *state: Any,
    steps: int,
    unfinished: Callable[..., tf.Tensor] | None = None,
    rescue: bool = False,
) -> tuple[Any, ...]:
    """Evaluate the loss and update the images, `steps` times.

    An empty batch is returned unchanged: TensorFlow's convolutions have no gradient there.
    tf.distribute gives replicas empty batches at the end of an epoch.

    Args:
        predict: maps images to logits in inference mode.
        start: [batch, ...] first iterate.
        loss: maps logits to a loss per sample, [batch].
        update: maps ``(i, x_adv, evaluation, *state)``, the number of the iterate, the
            iterate, its :class:`Evaluation` and the state, to the next iterate and state.
        *state: tensors, or tuples of tensors, carried from one update to the next.
        steps: number of updates.
        unfinished: maps the state to a scalar boolean; false ends the loop early.
        rescue: whether to evaluate samples whose loss is saturated on rescaled logits, and to
            tell which gradients were found; see :func:`evaluate`.

    Returns:
        The last iterate, which is not yet evaluated, and the state.
    """
    not_empty = tf.shape(start)[0] > 0
    evaluate_iterate = evaluate if rescue else _evaluate

    def condition(i: tf.Tensor, _: Images, *state: Any) -> tf.Tensor:
        more = (i < steps) & not_empty
        return more & unfinished(*state) if unfinished else more

    def body(i: tf.Tensor, x_adv: Images, *state: Any) -> tuple[Any, ...]:
        return (i + 1, *update(i, x_adv, evaluate_iterate(predict, loss, x_adv), *state))

    _, *results = tf.while_loop(condition, body, (tf.constant(0), start, *state))
    return tuple(results)


def ascend(
    predict: Predict,
    x: Images,
    start: Images,
    loss: Loss,
    *,
    norm: Norm,
    epsilon: float | tf.Tensor,
    step_size: float | tf.Tensor,
    steps: int,
) -> Images:
    """Maximise the loss in the ball by projected steepest ascent; return the last iterate.

    Args:
        predict: maps images to logits in inference mode.
        x: [batch, ...] ball centres in [0, 1].
        start: [batch, ...] first iterate.
        loss: maps logits to a loss per sample, [batch].
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in pixel values.
        step_size: length of a step in the same norm.
        steps: number of steps.

    Returns:
        [batch, ...] images in the ball and in [0, 1]; no gradient flows through them.
    """
    onto_ball = projection(x, norm, epsilon)

    def update(_: tf.Tensor, x_adv: Images, evaluation: Evaluation) -> tuple[Images]:
        return (onto_ball(x_adv + step_size * steepest_step(evaluation.gradient, norm)),)

    return tf.stop_gradient(ascent_loop(predict, start, loss, update, steps=steps)[0])


class _Best(NamedTuple):
    """The best image of each sample so far.

    Args:
        images: [batch, ...].
        losses: [batch].
        broken: [batch] booleans, true where the image is misclassified.
        gradients: [batch] int32, the best gradient that was found.
    """

    images: Images
    losses: tf.Tensor
    broken: tf.Tensor
    gradients: tf.Tensor

    def updated(self, x_adv: Images, logits: Logits, losses: tf.Tensor, y: Labels | None) -> _Best:
        """Return the best images after the evaluation of one more image per sample."""
        wrong = self.broken if y is None else misclassified(y, logits)
        better = (wrong & ~self.broken) | ((wrong == self.broken) & (losses > self.losses))
        return _Best(
            choose_images(better, x_adv, self.images),
            tf.where(better, losses, self.losses),
            self.broken | wrong,
            self.gradients,
        )


def ascend_best(
    predict: Predict,
    x: Images,
    start: Images,
    loss: Loss,
    y: Labels | None,
    *,
    norm: Norm,
    epsilon: float | tf.Tensor,
    step_size: float | tf.Tensor,
    steps: int,
) -> Attempt:
    """Maximise the loss as :func:`ascend` does; return the best iterate, the start included.

    With labels, a misclassified iterate is better than any other, and gradients of saturated losses
    are rescued; see :func:`evaluate`. Without labels, the iterate of the largest loss is the best.

    The best iterate of a sample is the one of the largest loss among the misclassified
    iterates, or among all iterates if none is misclassified.

    Args:
        predict: maps images to logits in inference mode.
        x: [batch, ...] ball centres.
        start: [batch, ...] first iterate.
        loss: maps logits to a loss per sample.
        y: [batch] integer labels, or None.
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in pixel values.
        step_size: length of a step in the same norm.
        steps: number of steps.

    Returns:
        The best images and, with labels, where they are misclassified and the best gradients that
        were found.
    """
    onto_ball = projection(x, norm, epsilon)

    def update(
        _: tf.Tensor, x_adv: Images, evaluation: Evaluation, best: _Best
    ) -> tuple[Images, _Best]:
        best = best.updated(x_adv, evaluation.logits, evaluation.losses, y)
        if evaluation.found is not None:
            best = best._replace(gradients=tf.maximum(best.gradients, evaluation.found))
        x_next = x_adv + step_size * steepest_step(evaluation.gradient, norm)
        return onto_ball(x_next), best

    count = tf.shape(start)[0]  # the size of `x` may be known, which a loop would insist on
    best = _Best(
        start,
        tf.fill([count], -np.float32(np.inf)),
        tf.zeros([count], tf.bool),
        tf.fill([count], UNUSED),
    )
    rescue = y is not None
    last, best = ascent_loop(predict, start, loss, update, best, steps=steps, rescue=rescue)
    logits = predict(last)
    losses = rescued_slope(loss, logits).losses if rescue else loss(logits)
    best = best.updated(last, logits, losses, y)
    return Attempt(tf.stop_gradient(best.images), best.broken, best.gradients)


def _evaluate(predict: Predict, loss: Loss, x_adv: Images) -> Evaluation:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x_adv)
        logits = predict(x_adv)
        losses = loss(logits)
        # A mean would make gradients depend on the batch size.
        total = tf.reduce_sum(losses)
    # A model that rounds its input has no gradient; the attack then stays where it is.
    zero = tf.UnconnectedGradients.ZERO
    return Evaluation(tape.gradient(total, x_adv, unconnected_gradients=zero), logits, losses)


def evaluate(predict: Predict, loss: Loss, x_adv: Images) -> Evaluation:
    """Evaluate model and loss, on rescaled logits where the loss has no gradient at the logits.

    Entries of a gradient that are not finite are set to 0. Where all gradients are finite and not
    zero, the result has the bits of an evaluation without rescue, but the gradients of confident
    predictions may have another positive factor.

    Args:
        predict: maps images to logits in inference mode.
        loss: maps logits to a loss per sample, [batch].
        x_adv: [batch, ...] images.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x_adv)
        logits = predict(x_adv)
    losses, slope, rescued = rescued_slope(loss, logits)
    zero = tf.UnconnectedGradients.ZERO
    gradient = tape.gradient(logits, x_adv, output_gradients=slope, unconnected_gradients=zero)
    found = gradients_found(gradient, rescued)
    gradient = tf.cond(
        tf.reduce_all(found > MISSING),
        lambda: gradient,
        lambda: tf.where(tf.math.is_finite(gradient), gradient, tf.zeros_like(gradient)),
    )
    return Evaluation(gradient, logits, losses, found)
