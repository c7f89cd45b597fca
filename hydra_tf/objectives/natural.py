"""Natural training: cross-entropy on the images as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import LossTerms, StepContext
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

    def __call__(self, model: Any, x: tf.Tensor, y: tf.Tensor, context: StepContext) -> LossTerms:
        """Return the mean cross-entropy; see :meth:`Objective.__call__`."""
        logits = model(x, training=True)
        return LossTerms(tf.reduce_mean(cross_entropy(y, logits)), logits)
