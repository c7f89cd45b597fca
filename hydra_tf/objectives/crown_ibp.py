"""CROWN-IBP (Zhang et al., ICLR 2020; arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf import bounds
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES
from hydra_tf.objectives.validation import Verification
from hydra_tf.objectives.verified import Verified


@OBJECTIVES.register()
@dataclass(frozen=True)
class CROWNIBP(Verified):
    """kappa * CE(f(x), y) + (1 - kappa) * CE(-m, y) with lower bounds m of the margins f_y - f_j.

    m = beta * CROWN-IBP + (1 - beta) * IBP. While epsilon grows from 0, beta and kappa go
    linearly with it from their first to their last value; after that they stay. Each
    phase begins anew at epsilon 0: what is left after pruning has to find its way back to
    verified bounds, as the dense network found its own. Bounds take the network in
    inference mode, and hold for float32 alone: a network that computes in half precision is
    refused before the first step. Parameters: those of :class:`Verified`, and

    Args:
        kappa_start: weight of the natural loss at epsilon 0.
        kappa_end: the same from the full epsilon on.
        beta_start: weight of the CROWN-IBP bound at epsilon 0.
        beta_end: the same from the full epsilon on.

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
        """The share of images verified by the bound that training ends with."""
        return Verification(self.epsilon, "crown_ibp" if self.beta_end else "ibp")

    def certificate(self) -> dict[str, Any]:
        """VRA-t: verified by CROWN-IBP on the full ball."""
        return {"measure": "vra_t", "method": "crown_ibp", "epsilon": self.epsilon}

    def __call__(self, model: Any, x: tf.Tensor, y: tf.Tensor, context: StepContext) -> LossTerms:
        """Return the weighted loss; see :meth:`Objective.__call__`."""
        grown = self.grown(context)
        kappa = self.kappa_start + grown * (self.kappa_end - self.kappa_start)
        beta = self.beta_start + grown * (self.beta_end - self.beta_start)
        logits = model(x, training=True)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        worst = -self._margins(model, x, y, grown * self.epsilon, beta)
        robust = tf.reduce_mean(cross_entropy(y, worst))
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(kappa * natural + (1 - kappa) * robust, logits, worst, components)

    def _margins(self, model: Any, x: tf.Tensor, y: tf.Tensor, epsilon: Any, beta: Any) -> Any:
        """Lower bounds of the margins: both methods' mixed."""

        def by(method: str) -> Any:
            # Few functions, and the gradient needs what all of them left behind: no chunks.
            return bounds.margin_lower_bound(model, x, y, epsilon, method, rounding=False, chunk=0)

        if self.beta_start == self.beta_end == 0:
            return by("ibp")
        return beta * by("crown_ibp") + (1 - beta) * by("ibp")
