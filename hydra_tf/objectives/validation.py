"""What ``val_robust_accuracy`` counts: samples correct under an attack, or verified ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from hydra_tf import attacks, bounds
from hydra_tf.attacks.base import run_attack
from hydra_tf.attacks.gradients import MISSING, RESCUED
from hydra_tf.attacks.losses import misclassified
from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import current_slice
from hydra_tf.core.types import Classifier, Images, Labels, Logits, Seed


@runtime_checkable
class ValidationMeasure(Protocol):
    """Counts the samples of a validation batch that are robustly correct."""

    def correct(
        self, model: Classifier, x: Images, y: Labels, logits: Logits, seed: int | Seed
    ) -> tf.Tensor:
        """Return ones for the samples that are robustly correct, zeros for the others.

        Args:
            model: network that outputs logits.
            x: [batch, ...] images.
            y: [batch] int32 labels.
            logits: [batch, classes] logits of `x`.
            seed: seed of the random numbers, a whole number or int32 [2].

        Returns:
            [n] float32, for the first n samples of the batch; n is the batch size unless the
            measure examines fewer.
        """


class Robustness(NamedTuple):
    """Which samples of a validation batch are robustly correct, and which were not attacked well.

    Args:
        correct: [n] float32, ones for the first n samples that are robustly correct.
        without_gradient: [batch] float32, ones for the samples that are correct without an attack
            and for which the loss of the attack had no gradient; None if that is not known.
    """

    correct: tf.Tensor
    without_gradient: tf.Tensor | None


@dataclass(frozen=True)
class UnderAttack:
    """Samples that are correctly classified both unperturbed and under an attack.

    Args:
        attack: callable ``(model, x, y, seed) -> images``.

    Example:
        >>> def black(model, x, y, seed):
        ...     return 0.0 * x
        >>> measure = UnderAttack(black)
        >>> x, y = tf.ones([2, 2]), tf.constant([0, 1])
        >>> measure.correct(lambda x, training: x, x, y, x, seed=0).numpy().tolist()
        [1.0, 0.0]
    """

    attack: Callable[..., Images]

    def correct(
        self, model: Classifier, x: Images, y: Labels, logits: Logits, seed: int | Seed
    ) -> tf.Tensor:
        """Return [batch] float32; see :meth:`ValidationMeasure.correct`."""
        return self.robustness(model, x, y, logits, seed).correct

    def robustness(
        self, model: Classifier, x: Images, y: Labels, logits: Logits, seed: int | Seed
    ) -> Robustness:
        """Return which samples are correct, and for which the attack found no gradient.

        Arguments as in :meth:`ValidationMeasure.correct`.
        """
        x_adv, gradients = run_attack(self.attack, model, x, y, seed)
        wrong = misclassified(y, logits)
        robust = ~(wrong | misclassified(y, model(x_adv, training=False)))
        if gradients is None:
            return Robustness(tf.cast(robust, tf.float32), None)
        missing = ((gradients == MISSING) | (gradients == RESCUED)) & ~wrong
        return Robustness(tf.cast(robust, tf.float32), tf.cast(missing, tf.float32))


@dataclass(frozen=True)
class Verification:
    """Samples that are verified on their whole Linf ball.

    Args:
        epsilon: Linf radius in units of pixel values in [0, 1].
        method: bound on the logits; see :func:`hydra_tf.bounds.bound`.
        samples: how many samples of each batch to examine; all of them when left out.

    Example:
        >>> Verification(0.1, "ibp").samples is None
        True
    """

    epsilon: float
    method: str
    samples: int | None = None

    def correct(
        self,
        model: Classifier,
        x: Images,
        y: Labels,
        logits: Logits | None = None,
        seed: int | Seed = 0,
    ) -> tf.Tensor:
        """Return [n] float32; see :meth:`ValidationMeasure.correct`.

        Of a slice of a batch, only those samples are examined that are among the first
        `samples` of the whole batch.
        """
        count = tf.shape(x)[0]
        if self.samples is not None:
            count = tf.clip_by_value(self.samples - current_slice(count)[0], 0, count)
            # Bounds need at least one image, so one is bounded and dropped again.
            x, y = x[: tf.maximum(count, 1)], y[: tf.maximum(count, 1)]
        margins = bounds.margin_lower_bound(
            model, x, y, self.epsilon, method=self.method, rounding=False
        )
        others = ~tf.one_hot(y, tf.shape(margins)[1], on_value=True, off_value=False)
        verified = tf.reduce_all((margins > 0) | ~others, axis=1)[:count]
        return tf.cast(verified, tf.float32)


# The spec of an attack, a callable (model, x, y, seed) -> images, a measure, or None.
ValidationSpec: TypeAlias = (
    str | Mapping[str, Any] | Callable[..., Images] | ValidationMeasure | None
)


def validation_measure(spec: ValidationSpec) -> ValidationMeasure | None:
    """Return the validation measure that a spec names.

    Args:
        spec: an attack spec (string or mapping), an attack or another callable
            ``(model, x, y, seed) -> images``, a :class:`ValidationMeasure`, or None.

    Raises:
        ValueError: for an unknown attack or parameter.

    Example:
        >>> validation_measure("pgd:steps=5").attack.steps
        5
    """
    if spec is None or isinstance(spec, ValidationMeasure):
        return spec
    return UnderAttack(attacks.build(spec))
