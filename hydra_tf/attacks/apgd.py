"""Auto-PGD, which needs no step size (Croce and Hein, ICML 2020, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from hydra_tf.attacks.ascent import Evaluation, ascent_loop
from hydra_tf.attacks.base import ATTACKS, LossAttack, Start
from hydra_tf.attacks.gradients import UNUSED, Perturbed, rescued_slope
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import TARGETED, UNTARGETED, Loss, likely_targets, misclassified
from hydra_tf.attacks.norms import (
    broadcast_to_images,
    choose_images,
    projection,
    random_start,
    steepest_step,
)
from hydra_tf.attacks.restarts import Attempt, attack_repeatedly, climb_repeatedly
from hydra_tf.attacks.step_sizes import check_steps
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Logits, Seed

MOMENTUM = 0.75  # alpha, the weight of the new step
RHO = 0.75  # share of steps that must increase the loss


class State(NamedTuple):
    """The state of an ascent, one value or image per sample."""

    previous: Images  # the iterate before the current one
    loss: tf.Tensor  # of the previous iterate
    best: Images  # the first misclassified iterate, or else that of the largest loss
    best_loss: tf.Tensor
    best_gradient: tf.Tensor
    broken: tf.Tensor
    step_size: tf.Tensor
    increases: tf.Tensor  # steps since the last checkpoint that increased the loss
    checkpoint_loss: tf.Tensor  # best_loss at the last checkpoint
    halved: tf.Tensor  # whether the step size was halved at the last checkpoint
    gradients: tf.Tensor  # the best gradient that was found, int32


@ATTACKS.register()
@dataclass(frozen=True)
class APGD(LossAttack):
    """Auto-PGD, which halves the step size of samples whose loss stops growing.

    A misclassified sample is returned unchanged. A broken sample has the first image that
    breaks it and is left out of later restarts and targets. Any other sample has the image of
    largest loss of the first restart. In training, every sample has the image of the largest loss
    of all restarts.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps of a restart.
        restarts: independent starts, for each target.
        loss: the loss to maximise: ``"ce"`` (cross-entropy), ``"dlr"`` (difference of logits
            ratio; the margin if there are two classes) or ``"margin"``.
        targets: 0 for an untargeted attack; otherwise the number of wrong classes to target
            one after the other, the most likely first, at most all.

    Example:
        >>> APGD(steps=100).checkpoints
        (22, 41, 57, 70, 80, 87, 93, 99)
    """

    steps: int = 100
    restarts: int = 1
    loss: Literal["ce", "dlr", "margin"] = "ce"
    targets: int = 0
    loss_parameters: ClassVar[tuple[str, ...]] = ("loss", "targets")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, not {self.restarts}.")
        if self.targets < 0:
            raise ValueError(f"targets must be at least 0, not {self.targets}.")

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The iterates at which the step size may be halved (section 3.1)."""
        checkpoints, percent, gap = set(), 22, 22
        while percent < 100:
            checkpoints.add(-(-percent * self.steps // 100))
            gap = max(gap - 3, 6)
            percent += gap
        return tuple(sorted(checkpoints))

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return the images of all restarts and targets.

        See :meth:`GradientAttack.follow_gradients`.

        Raises:
            ValueError: with targets, for a model of fewer than two classes.
        """
        logits = predict(x)
        targets = likely_targets(y, logits, self.targets) if self.targets else y[:, None]
        # Next to the labels, so that the remaining samples keep their targets.
        labels = tf.concat([y[:, None], targets], axis=1)

        def attempt(i: tf.Tensor, x: Images, labels: tf.Tensor, seed: Seed) -> Attempt:
            y, target = labels[:, 0], tf.gather(labels, 1 + i // self.restarts, batch_dims=1)
            return self._restart(predict, x, y, target, seed)

        attempts = targets.shape[1] * self.restarts
        result = attack_repeatedly(attempt, x, labels, seed, attempts)
        return Perturbed(result.images, result.gradients)

    def _restart(
        self, predict: Predict, x: Images, y: Labels, target: Labels, seed: Seed
    ) -> Attempt:
        def loss(logits: Logits) -> tf.Tensor:
            if self.targets:
                return TARGETED[self.loss](y, target, logits)
            return UNTARGETED[self.loss](y, logits)

        start = random_start(x, self.norm, self.epsilon, seed)
        # A misclassified image is its own start: the first iterate, and so the result.
        start = choose_images(misclassified(y, predict(x)), x, start)
        return self._ascend(predict, x, y, start, loss)

    def climb(
        self,
        predict: Predict,
        x: Images,
        loss: Loss,
        start: Start,
        seed: Seed,
        epsilon_share: float | tf.Tensor = 1.0,
    ) -> Images:
        """Return the images of the largest loss of all restarts; see :meth:`LossAttack.climb`."""

        def restart(seed: Seed) -> Images:
            return self._ascend(predict, x, None, start(seed), loss, epsilon_share).images

        return climb_repeatedly(restart, predict, loss, seed, self.restarts)

    def _ascend(
        self,
        predict: Predict,
        x: Images,
        y: Labels | None,
        start: Images,
        loss: Loss,
        epsilon_share: float | tf.Tensor = 1.0,
    ) -> Attempt:
        """Return the result of one ascent.

        With labels, a sample stops at the first misclassified iterate, and its gradients are
        rescued. Without labels, the loss alone counts.
        """
        epsilon = epsilon_share * self.epsilon
        # The number of steps between a checkpoint and the one before, 0 for other iterates.
        spans = np.zeros(self.steps + 1, np.float32)
        spans[list(self.checkpoints)] = np.diff([0, *self.checkpoints])
        onto_ball = projection(x, self.norm, epsilon)

        def update(
            i: tf.Tensor, x_adv: Images, evaluation: Evaluation, state: State
        ) -> tuple[Images, State]:
            state = _record(y, x_adv, evaluation, state)
            span = tf.gather(spans, i)
            x_now, gradient, state = _adapt_step_size(x_adv, evaluation.gradient, state, span)
            step = broadcast_to_images(state.step_size, x) * steepest_step(gradient, self.norm)
            weight = tf.where(i > 0, MOMENTUM, 1.0)
            ahead = weight * (onto_ball(x_now + step) - x_now)
            x_next = x_now + ahead + (1.0 - weight) * (x_now - state.previous)
            return onto_ball(x_next), state._replace(previous=x_now)

        last, state = ascent_loop(
            predict, start, loss, update, _initial_state(start, epsilon), steps=self.steps,
            unfinished=lambda state: ~tf.reduce_all(state.broken), rescue=y is not None,
        )  # fmt: skip
        logits = predict(last)
        losses = loss(logits) if y is None else rescued_slope(loss, logits).losses
        last_evaluation = Evaluation(tf.zeros_like(x), logits, losses, state.gradients)
        state = _record(y, last, last_evaluation, state)
        return Attempt(tf.stop_gradient(state.best), state.broken, state.gradients)


def _initial_state(start: Images, epsilon: float | tf.Tensor) -> State:
    count = tf.shape(start)[0]
    lowest, none = tf.fill([count], -np.float32(np.inf)), tf.zeros([count], tf.bool)
    return State(
        previous=start,
        loss=-lowest,
        best=start,
        best_loss=lowest,
        best_gradient=tf.zeros_like(start),
        broken=none,
        step_size=tf.fill([count], tf.cast(2 * epsilon, tf.float32)),
        increases=tf.zeros([count]),
        checkpoint_loss=lowest,
        halved=none,
        gradients=tf.fill([count], UNUSED),
    )


def _record(y: Labels | None, x_adv: Images, evaluation: Evaluation, state: State) -> State:
    """Return the state with the best iterates and losses after one more evaluation."""
    losses = evaluation.losses
    wrong = state.broken if y is None else misclassified(y, evaluation.logits)
    better = ~state.broken & (wrong | (losses > state.best_loss))
    found = evaluation.found
    return state._replace(
        best=choose_images(better, x_adv, state.best),
        best_loss=tf.where(better, losses, state.best_loss),
        best_gradient=choose_images(better, evaluation.gradient, state.best_gradient),
        broken=state.broken | wrong,
        increases=state.increases + tf.cast(losses > state.loss, tf.float32),
        loss=losses,
        gradients=state.gradients if found is None else tf.maximum(state.gradients, found),
    )


def _adapt_step_size(
    x_adv: Images, gradient: tf.Tensor, state: State, span: tf.Tensor
) -> tuple[Images, tf.Tensor, State]:
    """Return the iterate to continue from, its gradient and the state.

    At a checkpoint (`span` > 0) a sample returns to its best iterate with half the step size
    if too few steps increased its loss, or if neither the step size nor the largest loss has
    changed since the previous checkpoint (section 3.1, conditions 1 and 2).
    """
    at_checkpoint = span > 0
    few_increases = state.increases < RHO * span
    unchanged = ~state.halved & (state.checkpoint_loss >= state.best_loss)
    halve = at_checkpoint & (few_increases | unchanged)
    state = state._replace(
        loss=tf.where(halve, state.best_loss, state.loss),
        step_size=tf.where(halve, state.step_size / 2, state.step_size),
        increases=tf.where(at_checkpoint, 0.0, state.increases),
        checkpoint_loss=tf.where(at_checkpoint, state.best_loss, state.checkpoint_loss),
        halved=tf.where(at_checkpoint, halve, state.halved),
    )
    x_now = choose_images(halve, state.best, x_adv)
    return x_now, choose_images(halve, state.best_gradient, gradient), state
