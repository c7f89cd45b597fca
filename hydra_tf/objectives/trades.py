"""TRADES (Zhang et al., ICML 2019; arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hydra_tf.attacks.inference import inference
from hydra_tf.attacks.losses import smoothed_cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Classifier, Images, Labels, LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Adversarial, check_beta, kl_divergence


@OBJECTIVES.register()
@dataclass(frozen=True)
class TRADES(Adversarial):
    """CE(f(x), y) + beta * KL(f(x) || f(x')) where x' maximises the KL in the ball by PGD.

    The attack runs on the network in inference mode, and the benign prediction is computed once,
    not in every ascent step. Benign and adversarial images are then one batch, so that BatchNorm
    updates its statistics once per step. Parameters: those of :class:`Adversarial`, and

    Args:
        start: ``"normal"`` by default, as in the paper; ``"zero"`` raises an error, because the
            gradient of the KL is 0 at the unperturbed image.
        beta: weight of the KL term.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("trades:epsilon=8/255,steps=10,step_size=2/255,beta=6").beta
        6
    """

    start: Literal["uniform", "normal", "stripes", "zero"] = "normal"
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_beta(self.beta)
        if self.start == "zero":
            raise ValueError(
                'TRADES cannot start its attack at the unperturbed image (start="zero"), where the '
                'gradient of the KL is 0; use "normal", "uniform" or "stripes".'
            )

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return cross-entropy plus weighted KL; see :meth:`Objective.__call__`."""
        benign = tf.stop_gradient(model(x, training=False))
        x_adv = self.adversarial_images(
            inference(model), x, lambda logits: kl_divergence(benign, logits), context
        )
        logits, adversarial = tf.split(model(tf.concat([x, x_adv], 0), training=True), 2)
        natural = tf.reduce_mean(smoothed_cross_entropy(y, logits, self.label_smoothing))
        robust = tf.reduce_mean(kl_divergence(logits, adversarial))
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(natural + self.beta * robust, logits, adversarial, components)
