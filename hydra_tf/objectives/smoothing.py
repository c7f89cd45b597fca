"""Training for randomized smoothing (arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.attacks.norms import normal
from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import stateless_seed
from hydra_tf.core.types import LossTerms, Sampling, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Objective, kl_divergence


@dataclass(frozen=True)
class GaussianNoise:
    """What stands in for an attack while training: x + eta with eta ~ N(0, sigma^2 I).

    It is no attack: the images leave every ball and [0, 1], as those of a smoothed
    classifier do (Cohen et al., ICML 2019), and nothing is maximised.

    Args:
        sigma: standard deviation in units of pixel values in [0, 1].

    Example:
        >>> GaussianNoise(0.25)(None, tf.zeros([2, 3]), [0, 0], seed=0).shape
        TensorShape([2, 3])
    """

    sigma: float

    def __call__(self, model: Any, x: tf.Tensor, y: Any = None, seed: Any = 0) -> tf.Tensor:
        """Return noisy images.

        Args:
            model: not looked at.
            x: [batch, ...] float32 images.
            y: not looked at.
            seed: whole number or int32 [2].
        """
        return x + self.sigma * normal(x, stateless_seed(seed))


@OBJECTIVES.register()
@dataclass(frozen=True)
class Smoothing(Objective):
    """CE(f(x), y) + beta * KL(f(x) || f(x + eta)) with eta ~ N(0, sigma^2 I): stability training.

    After Li et al. (NeurIPS 2019). The noisy images are not clipped to [0, 1], for those
    that certify the network are not either. Benign and noisy images pass as one batch, so
    BatchNorm updates its statistics once a step. While training, robust accuracy is the share
    of images that are classified rightly both as they are and with noise of this sigma.

    Args:
        sigma: standard deviation of the noise in units of pixel values in [0, 1].
        beta: weight of the KL term.
        variant: ``"stability"`` as above, or ``"gaussian"`` for CE(f(x + eta), y), which
            arXiv 2002.10509 takes for ImageNet (Cohen et al., 2019); it has no beta.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("smoothing:sigma=0.5,variant=gaussian").sigma
        0.5
    """

    sigma: float = 0.25
    beta: float = 6.0
    variant: Literal["stability", "gaussian"] = "stability"

    def __post_init__(self) -> None:
        Sampling(sigma=self.sigma)  # refuses what is no noise
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, not {self.beta}.")
        if self.variant not in ("stability", "gaussian"):
            raise ValueError(f'variant must be "stability" or "gaussian", not {self.variant!r}.')

    def validation_attack(self) -> GaussianNoise:
        """Noise of the same sigma: what the smoothed classifier votes under."""
        return GaussianNoise(self.sigma)

    def certificate(self) -> dict[str, Any]:
        """VRA-s: certified by randomized smoothing with the same sigma."""
        return {"measure": "vra_s", "method": "smoothing", "sigma": self.sigma}

    def __call__(self, model: Any, x: tf.Tensor, y: tf.Tensor, context: StepContext) -> LossTerms:
        """Return the loss of the variant; see :meth:`Objective.__call__`."""
        noisy = GaussianNoise(self.sigma)(model, x, y, context.seed)
        if self.variant == "gaussian":
            # Only metrics read the benign logits, as in adversarial training.
            logits = tf.stop_gradient(model(x, training=False))
            smoothed = model(noisy, training=True)
            return LossTerms(tf.reduce_mean(cross_entropy(y, smoothed)), logits, smoothed)
        logits, smoothed = tf.split(model(tf.concat([x, noisy], 0), training=True), 2)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        robust = tf.reduce_mean(kl_divergence(logits, smoothed))
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(natural + self.beta * robust, logits, smoothed, components)
