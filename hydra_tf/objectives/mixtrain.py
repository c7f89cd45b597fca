"""MixTrain (Wang et al., arXiv 1811.02625; arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf import bounds
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import current_slice
from hydra_tf.core.types import Classifier, Images, Labels, LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES
from hydra_tf.objectives.validation import Verification
from hydra_tf.objectives.verified import Verified


@OBJECTIVES.register()
@dataclass(frozen=True)
class MixTrain(Verified):
    """CE(f(x), y) + alpha * CE(-m, y) with lower bounds m of the margins on a few samples.

    m comes from symbolic linear relaxation, which needs many backward passes for one sample. It is
    computed for `samples` random samples of the batch, and added to the loss with probability
    `share`. alpha is ``0.1 * 2.5^floor((progress - ramp) / growth)``, at most `alpha_max`. The
    defaults are those of the paper's 60 epochs: a ramp of 15, and growth every 5 epochs. Every
    phase starts at epsilon 0 again. Bounds are computed in float32; a network that computes in
    half precision raises an error before the first step. Parameters: those of
    :class:`Verified`, and

    Args:
        samples: number of samples of a batch to bound (k in the paper, 1 or 5).
        share: probability that the bounded term of a batch is added to the loss. It is computed
            in any case, because TensorFlow cannot differentiate the bounds inside `tf.cond`.
        growth: share of the phase, in (0, 1], between two increases of alpha.
        alpha_max: maximum weight of the bounded term.
        validation_samples: number of samples of each validation batch that are verified to choose
            the best epoch. Few make the choice noisy, and each costs as much as a sample to bound.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("mixtrain:epsilon=2/255,samples=5").share
        0.8
    """

    ramp: float = 0.25
    samples: int = 1
    share: float = 0.8
    growth: float = 1 / 12
    alpha_max: float = 50.0
    validation_samples: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "validation_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is a probability in (0, 1], not {self.share}.")
        if not 0 < self.growth <= 1:
            raise ValueError(f"growth is a share of the phase in (0, 1], not {self.growth}.")
        if not 0 < self.alpha_max < float("inf"):
            raise ValueError(f"alpha_max must be a finite number above 0, not {self.alpha_max}.")

    def validation_attack(self) -> Verification:
        """Return verification by symbolic intervals of the first images of each batch."""
        return Verification(self.epsilon, "symbolic", samples=self.validation_samples)

    def certificate(self) -> dict[str, Any]:
        """Return VRA-m: verified by symbolic intervals on the full ball."""
        return {"measure": "vra_m", "method": "symbolic", "epsilon": self.epsilon}

    def alpha(self, context: StepContext) -> tf.Tensor:
        """Return the weight of the bounded term at a step, a scalar."""
        # 1e-4 absorbs rounding errors: (5/12 - 1/4) / (1/12) must not be floored to 1.
        increases = tf.floor((context.progress - self.ramp) / self.growth + 1e-4)
        return tf.minimum(self.alpha_max, 0.1 * 2.5**increases)

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return natural plus bounded loss; see :meth:`Objective.__call__`."""
        logits = model(x, training=True)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        batch_seed, samples_seed = tf.unstack(tf.random.split(context.seed, 2))
        epsilon = self.epsilon_share(context) * self.epsilon

        first, total = current_slice(tf.size(y))
        order = tf.argsort(tf.random.stateless_uniform([total], samples_seed))
        # A smaller batch repeats samples, so that the shape is static.
        chosen = tf.gather(order, tf.range(self.samples) % total) - first
        # Samples of other slices are replaced by some of this slice, with weight 0.
        in_slice = tf.cast((chosen >= 0) & (chosen < tf.size(y)), tf.float32)
        chosen = tf.clip_by_value(chosen, 0, tf.size(y) - 1)
        x_few, y_few = tf.gather(x, chosen), tf.gather(y, chosen)
        margins = bounds.margin_lower_bound(
            model, x_few, y_few, epsilon, method="symbolic", rounding=False
        )
        added = tf.random.stateless_uniform([], batch_seed) < self.share
        # Losses of slices are weighted by their size; this makes the sum a mean over the batch.
        weight = tf.cast(total, tf.float32) / tf.cast(tf.size(y), tf.float32)
        bounded = weight * tf.reduce_mean(in_slice * cross_entropy(y_few, -margins))
        robust = tf.cast(added, tf.float32) * bounded
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(natural + self.alpha(context) * robust, logits, None, components)
