"""The ascent loop of all gradient attacks, and projected steepest ascent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss, misclassified
from hydra_tf.attacks.norms import broadcast_to_images, project, steepest_step
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Logits, Norm


class Evaluation(NamedTuple):
    """The model and the loss at an iterate.

    Args:
        gradient: [batch, ...] gradient of each sample's loss for its image.
        logits: [batch, classes].
        losses: [batch].
    """

    gradient: tf.Tensor
    logits: Logits
    losses: tf.Tensor


def ascent_loop(
    predict: Predict,
    start: Images,
    loss: Loss,
    update: Callable[..., tuple[Any, ...]],
    *state: Any,
    steps: int,
    unfinished: Callable[..., tf.Tensor] | None = None,
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

    Returns:
        The last iterate, which is not yet evaluated, and the state.
    """
    not_empty = tf.shape(start)[0] > 0

    def condition(i: tf.Tensor, _: Images, *state: Any) -> tf.Tensor:
        more = (i < steps) & not_empty
        return more & unfinished(*state) if unfinished else more

    def body(i: tf.Tensor, x_adv: Images, *state: Any) -> tuple[Any, ...]:
        return (i + 1, *update(i, x_adv, _evaluate(predict, loss, x_adv), *state))

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

    def update(_: tf.Tensor, x_adv: Images, evaluation: Evaluation) -> tuple[Images]:
        x_next = x_adv + step_size * steepest_step(evaluation.gradient, norm)
        return (project(x_next, x, norm, epsilon),)

    return tf.stop_gradient(ascent_loop(predict, start, loss, update, steps=steps)[0])


class _Best(NamedTuple):
    """The best image of each sample so far.

    Args:
        images: [batch, ...].
        losses: [batch].
        broken: [batch] booleans, true where the image is misclassified.
    """

    images: Images
    losses: tf.Tensor
    broken: tf.Tensor

    def updated(self, x_adv: Images, logits: Logits, losses: tf.Tensor, y: Labels) -> _Best:
        """Return the best images after the evaluation of one more image per sample."""
        wrong = misclassified(y, logits)
        better = (wrong & ~self.broken) | ((wrong == self.broken) & (losses > self.losses))
        return _Best(
            tf.where(broadcast_to_images(better, x_adv), x_adv, self.images),
            tf.where(better, losses, self.losses),
            self.broken | wrong,
        )


def ascend_best(
    predict: Predict,
    x: Images,
    start: Images,
    loss: Loss,
    y: Labels,
    *,
    norm: Norm,
    epsilon: float | tf.Tensor,
    step_size: float | tf.Tensor,
    steps: int,
) -> tuple[Images, tf.Tensor]:
    """Maximise the loss as :func:`ascend` does; return the best iterate, the start included.

    The best iterate of a sample is the one of the largest loss among the misclassified
    iterates, or among all iterates if none is misclassified.

    Args:
        predict: maps images to logits in inference mode.
        x: [batch, ...] ball centres.
        start: [batch, ...] first iterate.
        loss: maps logits to a loss per sample.
        y: [batch] integer labels.
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in pixel values.
        step_size: length of a step in the same norm.
        steps: number of steps.

    Returns:
        The best images and [batch] booleans, true where they are misclassified.
    """

    def update(
        _: tf.Tensor, x_adv: Images, evaluation: Evaluation, best: _Best
    ) -> tuple[Images, _Best]:
        best = best.updated(x_adv, evaluation.logits, evaluation.losses, y)
        x_next = x_adv + step_size * steepest_step(evaluation.gradient, norm)
        return project(x_next, x, norm, epsilon), best

    count = tf.shape(x)[0]
    best = _Best(start, tf.fill([count], -np.float32(np.inf)), tf.zeros([count], tf.bool))
    last, best = ascent_loop(predict, start, loss, update, best, steps=steps)
    logits = predict(last)
    best = best.updated(last, logits, loss(logits), y)
    return tf.stop_gradient(best.images), best.broken


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
