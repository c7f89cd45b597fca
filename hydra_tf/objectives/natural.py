"""Natural training: cross-entropy on unperturbed images."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Classifier, Images, Labels, LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Objective


@OBJECTIVES.register()
@dataclass(frozen=True)
class Natural(Objective):
    """CE(f(x), y).

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("natural")
        Natural()
    """

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return the mean cross-entropy; see :meth:`Objective.__call__`."""
        logits = model(x, training=True)
        return LossTerms(tf.reduce_mean(cross_entropy(y, logits)), logits)
