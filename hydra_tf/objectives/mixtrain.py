"""MixTrain (Wang et al., arXiv 1811.02625; arXiv 2002.10509, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf import bounds
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import current_slice
from hydra_tf.core.types import LossTerms, StepContext
from hydra_tf.objectives.base import OBJECTIVES
from hydra_tf.objectives.validation import Verification
from hydra_tf.objectives.verified import Verified


@OBJECTIVES.register()
@dataclass(frozen=True)
class MixTrain(Verified):
    """CE(f(x), y) + alpha * CE(-m, y) with lower bounds m of the margins on a few samples.

    m comes from symbolic linear relaxation, which costs many passes a sample: it is taken on
    `samples` random ones of the batch, and counts with probability `share` a batch. alpha is
    ``0.1 * 2.5^floor((progress - ramp) / growth)``, at most `alpha_max`: with the paper's 60
    epochs, a ramp of 15 and a growth every 5 of them, the defaults. Each phase begins anew
    at epsilon 0. Bounds hold for float32 alone: a network that computes in half precision is
    refused before the first step. Parameters: those of :class:`Verified`, and

    Args:
        samples: how many samples of a batch are bounded (k of the paper, 1 or 5).
        share: probability that the bounded term of a batch counts (it costs as much if not:
            TensorFlow cannot differentiate the bounds within a condition of the graph).
        growth: share of the phase, in (0, 1], after which alpha grows again.
        alpha_max: largest weight of the bounded term.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is a probability in (0, 1], not {self.share}.")
        if not 0 < self.growth <= 1:
            raise ValueError(f"growth is a share of the phase in (0, 1], not {self.growth}.")
        if not 0 < self.alpha_max < float("inf"):
            raise ValueError(f"alpha_max must be a finite number above 0, not {self.alpha_max}.")

    def validation_attack(self) -> Verification:
        """The share verified by symbolic intervals, on 8 images of each batch."""
        return Verification(self.epsilon, "symbolic", samples=8)

    def certificate(self) -> dict[str, Any]:
        """VRA-m: verified by symbolic intervals on the full ball."""
        return {"measure": "vra_m", "method": "symbolic", "epsilon": self.epsilon}

    def alpha(self, context: StepContext) -> Any:
        """Return the weight of the bounded term at a context, a scalar."""
        # A hair more than the quotient: 5/12 - 1/4 must count as two times 1/12.
        grown = tf.floor((context.progress - self.ramp) / self.growth + 1e-4)
        return tf.minimum(self.alpha_max, 0.1 * 2.5**grown)

    def __call__(self, model: Any, x: tf.Tensor, y: tf.Tensor, context: StepContext) -> LossTerms:
        """Return natural plus bounded loss; see :meth:`Objective.__call__`."""
        logits = model(x, training=True)
        natural = tf.reduce_mean(cross_entropy(y, logits))
        for_batch, for_samples = tf.unstack(tf.random.split(context.seed, 2))
        epsilon = self.grown(context) * self.epsilon

        first, total = current_slice(tf.size(y))
        order = tf.argsort(tf.random.stateless_uniform([total], for_samples))
        # A batch of fewer gives some twice: the shape is known, and chunks are of one size.
        chosen = tf.gather(order, tf.range(self.samples) % total) - first
        # Those that fall to other replicas, or to other parts, are bounded too, but do not count.
        own = tf.cast((chosen >= 0) & (chosen < tf.size(y)), tf.float32)
        chosen = tf.clip_by_value(chosen, 0, tf.size(y) - 1)
        x_few, y_few = tf.gather(x, chosen), tf.gather(y, chosen)
        margins = bounds.margin_lower_bound(
            model, x_few, y_few, epsilon, method="symbolic", rounding=False
        )
        wanted = tf.random.stateless_uniform([], for_batch) < self.share
        # The mean over the samples of the whole batch, as a part of the batch has to state it.
        weight = tf.cast(total, tf.float32) / tf.cast(tf.size(y), tf.float32)
        bounded = weight * tf.reduce_mean(own * cross_entropy(y_few, -margins))
        robust = tf.cast(wanted, tf.float32) * bounded
        components = {"natural_loss": natural, "robust_loss": robust}
        return LossTerms(natural + self.alpha(context) * robust, logits, None, components)
