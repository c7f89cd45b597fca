"""Auto-PGD: no step size to choose (Croce and Hein, ICML 2020, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from hydra_tf.attacks.ascent import check_steps, climb
from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import TARGETED, UNTARGETED, Loss, likely_targets, misclassified
from hydra_tf.attacks.norms import project, random_start, steepest_step, wide
from hydra_tf.attacks.survivors import attack_again
from hydra_tf.core.lazy import tf

MOMENTUM = 0.75  # alpha, the weight of the new step
RISES = 0.75  # rho, the share of steps that must raise the loss


class Memory(NamedTuple):
    """What a climb carries along, each entry [batch, ...] and for each sample its own."""

    before: Any  # the iterate before this one
    loss: Any  # its loss
    best: Any  # the first iterate that breaks the sample; until then that of the largest loss
    best_loss: Any
    best_gradient: Any
    broken: Any
    step_size: Any
    rises: Any  # steps since the last checkpoint that raised the loss
    checked_loss: Any  # the largest loss at the last checkpoint
    shrunk: Any  # whether the step size was halved there


@ATTACKS.register()
@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD, whose step size is halved where the loss no longer rises.

    A sample that the model gets wrong comes back as it is. One that is broken keeps the
    first image that breaks it and is left out of later restarts and targets; one that holds
    has the image of the largest loss of the first climb.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps of a climb.
        restarts: climbs from independent starts, for each target.
        loss: what is climbed: ``"ce"`` (cross-entropy), ``"dlr"`` (difference of logits
            ratio, the margin when there are two classes) or ``"margin"``.
        targets: 0 moves away from the label; otherwise the climbs aim one after the other
            at that many likely wrong classes, at most all.

    Example:
        >>> APGD(steps=100).checkpoints
        (22, 41, 57, 70, 80, 87, 93, 99)
    """

    steps: int = 100
    restarts: int = 1
    loss: Literal["ce", "dlr", "margin"] = "ce"
    targets: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, None)
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, not {self.restarts}.")
        if self.targets < 0:
            raise ValueError(f"targets must be at least 0, not {self.targets}.")

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The iterates at which a step size may be halved (section 3.1)."""
        found, share, width = [], 22, 22  # in percent, for whole numbers
        while share < 100:
            found.append(-(-share * self.steps // 100))
            width = max(width - 3, 6)
            share += width
        return tuple(sorted(set(found)))  # few steps put two of them on one iterate

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the images of all climbs; see :meth:`Attack.perturb`.

        Raises:
            ValueError: with targets, for a model of fewer than two classes.
        """
        logits = predict(x)
        aims = likely_targets(y, logits, self.targets) if self.targets else y[:, None]
        # Along with the labels, so that the samples that are left keep their targets.
        labels = tf.concat([y[:, None], aims], axis=1)

        def attempt(i: Any, x: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
            y, aim = labels[:, 0], tf.gather(labels, 1 + i // self.restarts, axis=1)
            return self._attempt(predict, x, y, aim, seed)

        return attack_again(attempt, x, labels, seed, aims.shape[1] * self.restarts)[0]

    def _attempt(
        self, predict: Predict, x: tf.Tensor, y: tf.Tensor, aim: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def loss(logits: Any) -> Any:
            if self.targets:
                return TARGETED[self.loss](y, aim, logits)
            return UNTARGETED[self.loss](y, logits)

        start = random_start(x, self.norm, self.epsilon, seed)
        # From the image itself the first look finds it broken, and it stays.
        start = tf.where(wide(misclassified(y, predict(x)), x), x, start)
        return self._climb(predict, x, y, start, loss)

    def _climb(
        self, predict: Predict, x: tf.Tensor, y: tf.Tensor, start: tf.Tensor, loss: Loss
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # The number of steps that end at each checkpoint, 0 for every other iterate.
        spans = np.zeros(self.steps + 1, np.float32)
        spans[list(self.checkpoints)] = np.diff([0, *self.checkpoints])
        ball = (x, self.norm, self.epsilon)

        def move(i: Any, x_adv: Any, seen: Any, kept: Memory) -> tuple[Any, Memory]:
            kept = _remember(y, x_adv, seen, kept)
            here, slope, kept = _check(x_adv, seen, kept, tf.gather(spans, i))
            step = wide(kept.step_size, x) * steepest_step(slope, self.norm)
            weight = tf.where(i > 0, MOMENTUM, 1.0)
            ahead = weight * (project(here + step, *ball) - here)
            moved = here + ahead + (1.0 - weight) * (here - kept.before)
            return project(moved, *ball), kept._replace(before=here)

        count = tf.shape(x)[0]
        low, none = tf.fill([count], -np.float32(np.inf)), tf.zeros([count], tf.bool)
        first = Memory(
            before=start, loss=-low, best=start, best_loss=low, best_gradient=tf.zeros_like(x),
            broken=none, step_size=tf.fill([count], tf.cast(2 * self.epsilon, tf.float32)),
            rises=tf.zeros([count]), checked_loss=low, shrunk=none,
        )  # fmt: skip
        last, kept = climb(
            predict, start, loss, move, first, steps=self.steps,
            unfinished=lambda kept: ~tf.reduce_all(kept.broken),
        )  # fmt: skip
        logits = predict(last)
        kept = _remember(y, last, (tf.zeros_like(x), logits, loss(logits)), kept)
        return tf.stop_gradient(kept.best), kept.broken


def _remember(y: Any, x_adv: Any, seen: Any, kept: Memory) -> Memory:
    """The memory after a look at an iterate: the best so far, and whether the loss rose."""
    gradient, logits, values = seen
    wrong = misclassified(y, logits)
    wins = ~kept.broken & (wrong | (values > kept.best_loss))
    return kept._replace(
        best=tf.where(wide(wins, x_adv), x_adv, kept.best),
        best_loss=tf.where(wins, values, kept.best_loss),
        best_gradient=tf.where(wide(wins, x_adv), gradient, kept.best_gradient),
        broken=kept.broken | wrong,
        rises=kept.rises + tf.cast(values > kept.loss, tf.float32),
        loss=values,
    )


def _check(x_adv: Any, seen: Any, kept: Memory, span: Any) -> tuple[Any, Any, Memory]:
    """Where to go on from, the gradient there, and the memory, halved steps included.

    At a checkpoint (`span` > 0) a sample goes back to its best iterate with half the step
    when too few steps raised its loss, or when neither the step size nor the largest loss
    has changed since the checkpoint before (section 3.1, conditions 1 and 2).
    """
    at_checkpoint = span > 0
    few = kept.rises < RISES * span
    stuck = ~kept.shrunk & (kept.checked_loss >= kept.best_loss)
    shrink = at_checkpoint & (few | stuck)
    back = wide(shrink, x_adv)
    kept = kept._replace(
        loss=tf.where(shrink, kept.best_loss, kept.loss),
        step_size=tf.where(shrink, kept.step_size / 2, kept.step_size),
        rises=tf.where(at_checkpoint, 0.0, kept.rises),
        checked_loss=tf.where(at_checkpoint, kept.best_loss, kept.checked_loss),
        shrunk=tf.where(at_checkpoint, shrink, kept.shrunk),
    )
    here = tf.where(back, kept.best, x_adv)
    return here, tf.where(back, kept.best_gradient, seen[0]), kept
