"""Natural training: cross-entropy on unperturbed images."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.attacks.losses import smoothed_cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Classifier, Images, Labels, LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Objective, check_label_smoothing


@OBJECTIVES.register()
@dataclass(frozen=True)
class Natural(Objective):
    """CE(f(x), y).

    Args:
        label_smoothing: share of the label that is spread over all classes, in [0, 1).

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("natural")
        Natural(label_smoothing=0.0)
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return the mean cross-entropy; see :meth:`Objective.__call__`."""
        logits = model(x, training=True)
        loss = smoothed_cross_entropy(y, logits, self.label_smoothing)
        return LossTerms(tf.reduce_mean(loss), logits)
