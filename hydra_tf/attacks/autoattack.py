"""AutoAttack: four attacks without parameters to choose (Croce and Hein, ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.attacks.apgd import APGD
from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.fab import FAB
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import misclassified
from hydra_tf.attacks.square import Square
from hydra_tf.attacks.survivors import attack_rest
from hydra_tf.core.lazy import tf


@ATTACKS.register()
@dataclass(frozen=True)
class AutoAttack(Attack):
    """The standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, Square, in this order.

    Each attack sees only the samples that still hold. A sample that the model gets wrong, or
    that holds against all four, comes back as it is; one that is broken has the image of the
    first attack that breaks it.

    The defaults are those of the paper. Fewer steps, targets or queries make it quicker and
    weaker; the report then names what was used.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: steps of both APGD and of FAB.
        targets: wrong classes that APGD-DLR and FAB aim at, at most all.
        queries: queries of Square.

    Example:
        >>> [type(attack).__name__ for attack in AutoAttack().ensemble]
        ['APGD', 'APGD', 'FAB', 'Square']
    """

    steps: int = 100
    targets: int = 9
    queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.ensemble  # whose members refuse what they cannot use

    @property
    def ensemble(self) -> tuple[Attack, ...]:
        """The attacks in their order."""
        ball = (self.norm, self.epsilon)
        return (
            APGD(*ball, steps=self.steps),
            APGD(*ball, steps=self.steps, loss="dlr", targets=self.targets),
            FAB(*ball, steps=self.steps, targets=self.targets),
            Square(*ball, queries=self.queries),
        )

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the images of the first attacks that break; see :meth:`Attack.perturb`."""
        best, broken = x, misclassified(y, predict(x))
        for i, attack in enumerate(self.ensemble):
            best, broken = attack_rest(_judged(attack, predict, seed, i), x, y, best, broken)
        return tf.stop_gradient(best)


def _judged(attack: Attack, predict: Predict, seed: tf.Tensor, i: int) -> Any:
    """An attack of the ensemble with a seed of its own, and what it breaks."""

    def attempt(x: Any, y: Any) -> tuple[Any, Any]:
        found = attack.perturb(predict, x, y, tf.random.fold_in(seed, i))
        return found, misclassified(y, predict(found))

    return attempt
