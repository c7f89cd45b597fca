"""Fast gradient method (Goodfellow et al., ICLR 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.types import Images, Labels, Seed


@ATTACKS.register()
@dataclass(frozen=True)
class FGSM(Attack):
    """One step of length epsilon that increases the cross-entropy, from the image itself.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].

    Example:
        >>> FGSM(epsilon=0.1).epsilon
        0.1
    """

    def perturb(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Images:
        """Return the images after one step; see :meth:`Attack.perturb`."""
        return ascend(
            predict,
            x,
            x,
            lambda logits: cross_entropy(y, logits),
            norm=self.norm,
            epsilon=self.epsilon,
            step_size=self.epsilon,
            steps=1,
        )
