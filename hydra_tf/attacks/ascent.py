"""The loop of every gradient attack, and its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss, misclassified
from hydra_tf.attacks.norms import project, steepest_step, wide
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Norm


def climb(
    predict: Predict,
    start: tf.Tensor,
    loss: Loss,
    move: Callable[..., tuple[Any, ...]],
    *memory: Any,
    steps: int,
    unfinished: Callable[..., Any] | None = None,
) -> tuple[Any, ...]:
    """The loop of every attack by gradients: look at the loss, then move.

    Args:
        predict: maps images to logits in inference mode.
        start: [batch, ...] first iterate.
        loss: maps logits to a loss per sample, [batch].
        move: maps ``(i, x_adv, (gradient, logits, losses), *memory)``, all taken at the
            iterate x_adv of number i, to the next iterate and the memory after it.
        *memory: what `move` carries along, tensors or tuples of them.
        steps: number of moves.
        unfinished: maps the memory to a scalar; false ends the climb early.

    Returns:
        The last iterate, on which nobody has looked yet, and the memory.
    """
    some = tf.shape(start)[0] > 0

    def going(i: Any, _: Any, *memory: Any) -> Any:
        # Nothing is done for an empty batch, such as tf.distribute hands to a replica at the
        # end of an epoch: TensorFlow's convolutions have no gradient there.
        on = (i < steps) & some
        return on & unfinished(*memory) if unfinished else on

    def body(i: Any, x_adv: Any, *memory: Any) -> tuple[Any, ...]:
        return (i + 1, *move(i, x_adv, _look(predict, loss, x_adv), *memory))

    _, *state = tf.while_loop(going, body, (tf.constant(0), start, *memory))
    return tuple(state)


def ascend(
    predict: Predict,
    x: tf.Tensor,
    start: tf.Tensor,
    loss: Loss,
    *,
    norm: Norm,
    epsilon: Any,
    step_size: Any,
    steps: int,
) -> tf.Tensor:
    """Climb the loss inside the ball by projected steepest ascent; return the last iterate.

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

    def move(i: Any, x_adv: Any, seen: Any) -> tuple[Any]:
        moved = x_adv + step_size * steepest_step(seen[0], norm)
        return (project(moved, x, norm, epsilon),)

    return tf.stop_gradient(climb(predict, start, loss, move, steps=steps)[0])


def ascend_best(
    predict: Predict, x: tf.Tensor, start: tf.Tensor, loss: Loss, y: tf.Tensor, **how: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Like :func:`ascend`, but return the best iterate met, the start included.

    The best iterate of a sample is a misclassified one if there is one, and among those of
    a kind the one of the largest loss.

    Args:
        predict: maps images to logits in inference mode.
        x: [batch, ...] ball centres.
        start: [batch, ...] first iterate.
        loss: maps logits to a loss per sample.
        y: [batch] integer labels.
        **how: `norm`, `epsilon`, `step_size`, `steps` as in :func:`ascend`.

    Returns:
        The best images and [batch] booleans, true where they are misclassified.
    """
    norm, epsilon, step_size = how["norm"], how["epsilon"], how["step_size"]

    def better(candidate: Any, logits: Any, values: Any, kept: Any) -> tuple[Any, Any, Any]:
        best, best_loss, broken = kept
        wrong = misclassified(y, logits)
        wins = (wrong & ~broken) | ((wrong == broken) & (values > best_loss))
        best = tf.where(wide(wins, x), candidate, best)
        return best, tf.where(wins, values, best_loss), broken | wrong

    def move(i: Any, x_adv: Any, seen: Any, *kept: Any) -> tuple[Any, ...]:
        gradient, logits, values = seen
        kept = better(x_adv, logits, values, kept)
        moved = x_adv + step_size * steepest_step(gradient, norm)
        return (project(moved, x, norm, epsilon), *kept)

    count = tf.shape(x)[0]
    first = (start, tf.fill([count], -np.float32(np.inf)), tf.zeros([count], tf.bool))
    last, *kept = climb(predict, start, loss, move, *first, steps=how["steps"])
    logits = predict(last)
    best, _, broken = better(last, logits, loss(logits), kept)
    return tf.stop_gradient(best), broken


def _look(predict: Predict, loss: Loss, x_adv: tf.Tensor) -> tuple[Any, Any, Any]:
    """Gradient of the summed loss for the images, with the logits and the losses."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x_adv)
        logits = predict(x_adv)
        values = loss(logits)
        # The sum keeps each sample's gradient free of the batch size.
        total = tf.reduce_sum(values)
    # A model that rounds its input has no gradient at all: the attack then stands still.
    none = tf.UnconnectedGradients.ZERO
    return tape.gradient(total, x_adv, unconnected_gradients=none), logits, values


def check_steps(steps: int, step_size: float | None) -> None:
    """Refuse a negative number of steps or a step size that is not positive.

    Raises:
        ValueError: with what was given.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}.")
    if step_size is not None and not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be a positive number, not {step_size}.")


def default_step_size(step_size: float | None, epsilon: float, steps: int) -> float:
    """Return the given step size, or Madry's rule ``2.5 * epsilon / steps``.

    Example:
        >>> default_step_size(None, 0.2, 10), default_step_size(0.01, 0.2, 10)
        (0.05, 0.01)
    """
    return 2.5 * epsilon / max(1, steps) if step_size is None else step_size
