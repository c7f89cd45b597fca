"""TRADES (Zhang et al., ICML 2019; arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf.attacks.inference import inference
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Adversarial, kl_divergence


@OBJECTIVES.register()
@dataclass(frozen=True)
class TRADES(Adversarial):
    """CE(f(x), y) + beta * KL(f(x) || f(x')) where x' maximises the KL in the ball by PGD.

    The attack sees the network in inference mode and the clean prediction is computed once,
    not per step. Benign and adversarial images then pass as one batch, so BatchNorm updates
    its statistics once a step. Parameters: those of :class:`Adversarial`, and

    Args:
        start: ``"normal"`` by default, as the authors of TRADES do; ``"zero"`` is refused,
            for the KL has no gradient at the image itself.
        beta: weight of the KL term.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("trades:epsilon=8/255,steps=10,step_size=2/255,beta=6").beta
        6
    """

    start: Literal["uniform", "normal", "zero"] = "normal"
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, not {self.beta}.")
        if self.start == "zero":
            raise ValueError(
                'TRADES cannot start its attack at the image itself (start="zero"), where the KL '
                'has no gradient and the attack would stay; take "normal" or "uniform".'
            )

    def __call__(self, model: Any, x: tf.Tensor, y: tf.Tensor, context: StepContext) -> LossTerms:
        """Return cross-entropy plus weighted KL; see :meth:`Objective.__call__`."""
        clean = tf.stop_gradient(model(x, training=False))
        x_adv = self.inner(inference(model), x, lambda q: kl_divergence(clean, q), context)
        logits, adversarial = tf.split(model(tf.concat([x, x_adv], 0), training=True), 2)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        robust = tf.reduce_mean(kl_divergence(logits, adversarial))
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(natural + self.beta * robust, logits, adversarial, components)
