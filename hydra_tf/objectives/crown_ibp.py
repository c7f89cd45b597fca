"""CROWN-IBP (Zhang et al., ICLR 2020; arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf import bounds
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Classifier, Images, Labels, LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES
from hydra_tf.objectives.validation import Verification
from hydra_tf.objectives.verified import Verified


@OBJECTIVES.register()
@dataclass(frozen=True)
class CROWNIBP(Verified):
    """kappa * CE(f(x), y) + (1 - kappa) * U with an upper bound U of the CE over the ball.

    U is ``beta * CROWN-IBP + (1 - beta) * IBP``, the weighted mean of two bounds of the CE. With
    ``fusion=false`` it is CE(-m, y), as in the paper, where m is the weighted mean of two lower
    bounds of the margins f_y - f_j. :func:`hydra_tf.bounds.cross_entropy_upper_bound` computes it.
    While epsilon grows from 0, beta and kappa change linearly with it from their start to their end
    value, and then stay constant. Every phase starts at epsilon 0 again, because pruning loosens
    the bounds. Bounds are computed in inference mode and in float32; a network that computes in
    half precision raises an error before the first step. Parameters: those of :class:`Verified`,
    and

    Args:
        kappa_start: weight of the natural loss at epsilon 0.
        kappa_end: weight of the natural loss at the full epsilon.
        beta_start: weight of the CROWN-IBP bound at epsilon 0.
        beta_end: weight of the CROWN-IBP bound at the full epsilon. If both weights are 0, only IBP
            is computed.
        fusion: whether CROWN-IBP passes one linear function backwards, an upper bound of the sum
            of exponentials in the CE, instead of one for every wrong class (loss fusion; Xu et al.,
            NeurIPS 2020). A step with it costs less than half, and less still with many classes.
            The robust accuracy that is logged during training is then that of IBP.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("crown_ibp:epsilon=2/255,kappa_end=0.5").beta_start
        1.0
    """

    kappa_start: float = 1.0
    kappa_end: float = 0.0
    beta_start: float = 1.0
    beta_end: float = 0.0
    fusion: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kappa_start", "kappa_end", "beta_start", "beta_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], not {getattr(self, name)}.")

    def validation_attack(self) -> Verification:
        """Return verification by the bound that training ends with."""
        return Verification(self.epsilon, "crown_ibp" if self.beta_end else "ibp")

    def certificate(self) -> dict[str, Any]:
        """Return VRA-t: verified by CROWN-IBP on the full ball."""
        return {"measure": "vra_t", "method": "crown_ibp", "epsilon": self.epsilon}

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return the weighted loss; see :meth:`Objective.__call__`."""
        share = self.epsilon_share(context)
        kappa = self.kappa_start + share * (self.kappa_end - self.kappa_start)
        beta: float | tf.Tensor = 0.0
        if self.beta_start or self.beta_end:
            beta = self.beta_start + share * (self.beta_end - self.beta_start)
        logits = model(x, training=True)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        losses, worst = bounds.cross_entropy_upper_bound(
            model, x, y, share * self.epsilon, beta, self.fusion
        )
        robust = tf.reduce_mean(losses)
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(kappa * natural + (1 - kappa) * robust, logits, worst, components)
