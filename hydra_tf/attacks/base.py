"""The only ascent loop, and what every attack shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf._lazy import tf
from hydra_tf.attacks.inference import Predict, inference
from hydra_tf.attacks.norms import project, steepest_step
from hydra_tf.checks import check_use
from hydra_tf.graphs import Graphs
from hydra_tf.registry import Registry
from hydra_tf.types import Ball, Norm

Loss = Callable[[Any], Any]


def cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each sample, [batch], for integer labels and logits in float32.

    Example:
        >>> cross_entropy([0], [[0.0, 0.0]]).numpy().round(4).tolist()
        [0.6931]
    """
    logits = tf.cast(logits, tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)


def margin(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The largest wrong logit less the right one (Carlini and Wagner, 2017), [batch].

    Positive where the sample is misclassified.

    Example:
        >>> margin([0], [[3.0, 1.0, 2.0]]).numpy().tolist()
        [-1.0]
    """
    logits = tf.cast(logits, tf.float32)
    right = tf.one_hot(y, tf.shape(logits)[-1], on_value=True, off_value=False)
    wrong = tf.reduce_max(tf.where(right, -np.inf, logits), axis=-1)
    return wrong - tf.gather(logits, y, batch_dims=1)


def misclassified(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Where the prediction is not the label, [batch] booleans.

    Of equal logits the first is the prediction, as in every accuracy.

    Example:
        >>> misclassified([0, 1], [[2.0, 2.0], [2.0, 2.0]]).numpy().tolist()
        [False, True]
    """
    return tf.argmax(logits, axis=-1, output_type=tf.int32) != tf.cast(y, tf.int32)


def wide(flags: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return [batch] values with axes of one added, to broadcast against `x`.

    Example:
        >>> wide(tf.zeros([5]), tf.zeros([5, 8, 8, 1])).shape.as_list()
        [5, 1, 1, 1]
    """
    return tf.reshape(flags, [-1] + [1] * (len(x.shape) - 1))


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


@dataclass(frozen=True)
class Attack:
    """An attack within a norm ball on a model that outputs logits.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        Ball(self.norm, self.epsilon)  # refuses what is no ball

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return adversarial images; pure, for use inside a graph.

        Args:
            predict: maps images to logits in inference mode.
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] integer labels.
            seed: int32 tensor of shape [2].
        """
        raise NotImplementedError

    def __call__(self, model: Any, x: Any, y: Any, seed: int = 0) -> tf.Tensor:
        """Attack a model on one batch.

        The graph of an attack on a model is traced once and kept with the model, until a layer
        of it is changed in place.

        Args:
            model: a Keras model (or :class:`hydra_tf.RobustModel`) that outputs logits.
            x: [batch, ...] images in [0, 1].
            y: [batch] integer labels, or [batch, classes] one-hot.
            seed: every random number of the attack follows from it.

        Returns:
            [batch, ...] float32 adversarial images within the ball and [0, 1].

        Raises:
            ValueError: a model that outputs probabilities, images outside [0, 1] or of the
                wrong shape, labels out of range or not as many.
        """
        if tf.executing_eagerly():
            check_use(model, x, y)
        x = tf.cast(x, tf.float32)
        y = sparse_labels(y)
        if not tf.executing_eagerly():
            return self.perturb(inference(model), x, y, stateless_seed(seed))
        return _compiled(self, model)(x, y, stateless_seed(seed))


def stateless_seed(seed: Any) -> tf.Tensor:
    """Return the seed of stateless random operations, int32 [2], for a whole number.

    Example:
        >>> stateless_seed(7).numpy().tolist()
        [7, 0]
    """
    if isinstance(seed, int | np.integer):
        return tf.constant([int(seed) % (1 << 31), 0], tf.int32)
    return tf.cast(seed, tf.int32)


def is_one_hot(y: Any) -> bool:
    """Whether labels have a row of numbers each, by their shape.

    Example:
        >>> is_one_hot(tf.zeros([2, 3])), is_one_hot(tf.zeros([2, 1])), is_one_hot(tf.zeros([2]))
        (True, False, False)
    """
    return len(y.shape) == 2 and y.shape[-1] != 1


def sparse_labels(y: Any) -> tf.Tensor:
    """Return labels as int32 [batch]; one-hot rows become the index of their one.

    Raises:
        ValueError: for labels of another shape.

    Example:
        >>> sparse_labels([[0.0, 1.0], [1.0, 0.0]]).numpy().tolist()
        [1, 0]
    """
    y = tf.convert_to_tensor(y)
    if is_one_hot(y):
        y = tf.argmax(y, axis=-1)
    elif len(y.shape) == 2:
        y = y[:, 0]
    if len(y.shape) != 1:
        raise ValueError(
            f"Labels must be integers of shape [batch] or one-hot of shape [batch, classes], "
            f"not of shape {tuple(y.shape)}."
        )
    return tf.cast(y, tf.int32)


_graphs = Graphs()


def _compiled(attack: Attack, model: Any) -> Any:
    """The traced graph of this attack on this model; it goes when the model goes."""

    def trace(model: Callable[[], Any]) -> Any:
        @tf.function(reduce_retracing=True)
        def run(x: Any, y: Any, seed: Any) -> Any:
            return attack.perturb(inference(model()), x, y, seed)

        return run

    return _graphs.get(model, attack, trace)


ATTACKS: Registry[Attack] = Registry("attack", "hydra_tf.attacks")
build = ATTACKS.build
