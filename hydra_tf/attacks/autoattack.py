"""AutoAttack: an ensemble of four attacks (Croce and Hein, ICML 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hydra_tf.attacks.apgd import APGD
from hydra_tf.attacks.base import ATTACKS, Attack, GradientAttack, perturbed
from hydra_tf.attacks.fab import FAB
from hydra_tf.attacks.gradients import UNUSED, Perturbed
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import misclassified
from hydra_tf.attacks.restarts import Attempt, attack_remaining
from hydra_tf.attacks.square import Square
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Seed


@ATTACKS.register()
@dataclass(frozen=True)
class AutoAttack(GradientAttack):
    """The standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, Square, in this order.

    Each attack sees only the samples that are not yet broken. A sample that is misclassified,
    or that no attack breaks, is returned unchanged; a broken sample has the image of the first
    attack that breaks it.

    The defaults are those of the paper. Fewer steps, targets or queries make the attack faster
    and weaker.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps of APGD and FAB.
        targets: number of wrong classes that APGD-DLR and FAB target, at most all.
        queries: queries of Square per image.

    Example:
        >>> [type(attack).__name__ for attack in AutoAttack().ensemble]
        ['APGD', 'APGD', 'FAB', 'Square']
    """

    steps: int = 100
    targets: int = 9
    queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.ensemble  # the four attacks validate the parameters

    @property
    def ensemble(self) -> tuple[Attack, ...]:
        """The four attacks in order."""
        ball = (self.norm, self.epsilon)
        return (
            APGD(*ball, steps=self.steps),
            APGD(*ball, steps=self.steps, loss="dlr", targets=self.targets),
            FAB(*ball, steps=self.steps, targets=self.targets),
            Square(*ball, queries=self.queries),
        )

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return the images of the first successful attacks.

        See :meth:`GradientAttack.follow_gradients`. The gradients are the best that any of the
        attacks found; Square uses none.
        """
        result = Attempt(x, misclassified(y, predict(x)), tf.fill([tf.shape(x)[0]], UNUSED))
        for i, attack in enumerate(self.ensemble):
            attempt = _attempt(attack, predict, tf.random.fold_in(seed, i))
            result = attack_remaining(attempt, x, y, result)
        return Perturbed(tf.stop_gradient(result.images), result.gradients)


def _attempt(attack: Attack, predict: Predict, seed: Seed) -> Callable[[Images, Labels], Attempt]:
    """Return a function that attacks images and tells which of them are misclassified."""

    def attempt(x: Images, y: Labels) -> Attempt:
        x_adv, gradients = perturbed(attack, predict, x, y, seed)
        return Attempt(x_adv, misclassified(y, predict(x_adv)), gradients)

    return attempt
