"""Training for randomized smoothing (arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.attacks.norms import normal
from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import stateless_seed
from hydra_tf.core.types import Classifier, Images, Labels, LossTerms, Sampling, Seed, StepContext
from hydra_tf.objectives.base import OBJECTIVES, Objective, check_beta, kl_divergence


@dataclass(frozen=True)
class GaussianNoise:
    """Noisy images, x + eta with eta ~ N(0, sigma^2 I), used in place of adversarial images.

    As in a smoothed classifier (Cohen et al., ICML 2019), they are not restricted to a ball or to
    [0, 1]. No loss is maximised.

    Args:
        sigma: standard deviation in units of pixel values in [0, 1].

    Example:
        >>> GaussianNoise(0.25)(None, tf.zeros([2, 3]), [0, 0], seed=0).shape
        TensorShape([2, 3])
    """

    sigma: float

    def __call__(
        self,
        model: Classifier | None,
        x: Images,
        y: Labels | None = None,
        seed: int | Seed = 0,
    ) -> Images:
        """Return noisy images.

        Args:
            model: ignored.
            x: [batch, ...] float32 images.
            y: ignored.
            seed: an integer, or int32 [2].
        """
        return x + self.sigma * normal(x, stateless_seed(seed))


@OBJECTIVES.register()
@dataclass(frozen=True)
class Smoothing(Objective):
    """CE(f(x), y) + beta * KL(f(x) || f(x + eta)) with eta ~ N(0, sigma^2 I): stability training.

    Stability training follows Li et al. (NeurIPS 2019). Noisy images are not clipped to [0, 1],
    as in certification. Benign and noisy images are one batch, so that BatchNorm updates its
    statistics once per step. During training, robust accuracy is the share of images that are
    correctly classified both without and with noise of this sigma.

    Args:
        sigma: standard deviation of the noise in units of pixel values in [0, 1].
        beta: weight of the KL term.
        variant: ``"stability"`` as above, or ``"gaussian"`` for CE(f(x + eta), y), which
            arXiv 2002.10509 uses for ImageNet (Cohen et al., 2019); it ignores beta.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("smoothing:sigma=0.5,variant=gaussian").sigma
        0.5
    """

    sigma: float = 0.25
    beta: float = 6.0
    variant: Literal["stability", "gaussian"] = "stability"

    def __post_init__(self) -> None:
        Sampling(sigma=self.sigma)  # validates sigma
        check_beta(self.beta)
        if self.variant not in ("stability", "gaussian"):
            raise ValueError(f'variant must be "stability" or "gaussian", not {self.variant!r}.')

    def validation_attack(self) -> GaussianNoise:
        """Return noise of the same sigma, as in the votes of the smoothed classifier."""
        return GaussianNoise(self.sigma)

    def certificate(self) -> dict[str, Any]:
        """Return VRA-s: certified by randomized smoothing with the same sigma."""
        return {"measure": "vra_s", "method": "smoothing", "sigma": self.sigma}

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return the loss of the variant; see :meth:`Objective.__call__`."""
        noisy = GaussianNoise(self.sigma)(model, x, y, context.seed)
        if self.variant == "gaussian":
            # Only metrics use the benign logits.
            logits = tf.stop_gradient(model(x, training=False))
            smoothed = model(noisy, training=True)
            return LossTerms(tf.reduce_mean(cross_entropy(y, smoothed)), logits, smoothed)
        logits, smoothed = tf.split(model(tf.concat([x, noisy], 0), training=True), 2)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        robust = tf.reduce_mean(kl_divergence(logits, smoothed))
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(natural + self.beta * robust, logits, smoothed, components)
