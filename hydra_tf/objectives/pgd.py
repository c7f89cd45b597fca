"""Adversarial training (Madry et al., ICLR 2018; arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.attacks.inference import inference
from hydra_tf.attacks.losses import cross_entropy, smoothed_cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Classifier, Images, Labels, LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Adversarial


@OBJECTIVES.register()
@dataclass(frozen=True)
class PGDTraining(Adversarial):
    """CE(f(x'), y) where x' maximises the cross-entropy in the ball by PGD.

    The attack runs on the network in inference mode. Parameters: :class:`Adversarial`. Small
    networks with a large epsilon may not learn from scratch; ``ramp=0.5`` helps.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("pgd:epsilon=0.2,ramp=0.5").epsilon
        0.2
    """

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return the mean adversarial cross-entropy; see :meth:`Objective.__call__`."""
        x_adv = self.adversarial_images(
            inference(model), x, lambda logits: cross_entropy(y, logits), context
        )
        # Only metrics use the benign logits; without them the graph drops this forward pass. It
        # comes before the trained one, since Keras keeps the last activity regularisation loss.
        logits = tf.stop_gradient(model(x, training=False))
        adversarial = model(x_adv, training=True)
        loss = tf.reduce_mean(smoothed_cross_entropy(y, adversarial, self.label_smoothing))
        return LossTerms(loss, logits, adversarial)
