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
    """kappa * CE(f(x), y) + (1 - kappa) * CE(-m, y) with lower bounds m of the margins f_y - f_j.

    m = beta * CROWN-IBP + (1 - beta) * IBP. While epsilon grows from 0, beta and kappa change
    linearly with it from their start to their end value, and then stay constant. Every phase
    starts at epsilon 0 again, because pruning loosens the bounds. Bounds are computed in
    inference mode and in float32; a network that computes in half precision raises an error
    before the first step. Parameters: those of :class:`Verified`, and

    Args:
        kappa_start: weight of the natural loss at epsilon 0.
        kappa_end: weight of the natural loss at the full epsilon.
        beta_start: weight of the CROWN-IBP bound at epsilon 0.
        beta_end: weight of the CROWN-IBP bound at the full epsilon.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("crown_ibp:epsilon=2/255,kappa_end=0.5").beta_start
        1.0
    """

    kappa_start: float = 1.0
    kappa_end: float = 0.0
    beta_start: float = 1.0
    beta_end: float = 0.0

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
        beta = self.beta_start + share * (self.beta_end - self.beta_start)
        logits = model(x, training=True)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        worst = -self._margins(model, x, y, share * self.epsilon, beta)
        robust = tf.reduce_mean(cross_entropy(y, worst))
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(kappa * natural + (1 - kappa) * robust, logits, worst, components)

    def _margins(
        self, model: Classifier, x: Images, y: Labels, epsilon: tf.Tensor, beta: tf.Tensor
    ) -> tf.Tensor:
        """Return lower bounds of the margins, the weighted mean of both methods."""

        def lower_bound(method: str) -> tf.Tensor:
            # The gradient needs the intermediate values of all chunks, so chunks save no memory.
            return bounds.margin_lower_bound(model, x, y, epsilon, method, rounding=False, chunk=0)

        if self.beta_start == self.beta_end == 0:
            return lower_bound("ibp")
        return beta * lower_bound("crown_ibp") + (1 - beta) * lower_bound("ibp")
