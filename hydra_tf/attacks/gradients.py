"""Which gradients an attack found, and gradients of saturated losses from rescaled logits.

The cross-entropy of a confident prediction has a gradient of exactly 0 in float32, or one whose
entry for the label is 0 while the others, which are tiny, are not. An attack that follows it does
not move, or does not lower the label's logit, and the sample seems robust. The attacks of this
folder then follow the
gradient of the same loss on rescaled logits, which is sound, because every image in the ball counts
as an attack, however it was found. Where that is zero too, the network itself has no gradient, as
behind a layer that rounds.
"""

from __future__ import annotations

from typing import NamedTuple

from hydra_tf.attacks.losses import Loss
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Logits

# The best gradient that an attack found for a sample, over all its steps.
UNUSED = 0  # the attack computed no gradient for the sample
MISSING = 1  # zero or not finite at every step
RESCUED = 2  # the same for the loss, but not for the loss on rescaled logits
FOUND = 3

MAX_SHARE = 0.01  # of images without a gradient, above which there is a warning
_GAP = 10.0  # largest difference of rescaled logits; exp(-10) is far from 0 in float32
_TINY = 2.0**-64  # slopes below it are multiplied by its inverse, which is exact


class Perturbed(NamedTuple):
    """The result of an attack.

    Args:
        images: [batch, ...] adversarial images.
        gradients: [batch] int32, the best gradient that was found for each sample (`UNUSED`,
            `MISSING`, `RESCUED` or `FOUND`); None if that is not known.
    """

    images: Images
    gradients: tf.Tensor | None


class Slope(NamedTuple):
    """A loss and its gradient with respect to the logits.

    Args:
        losses: [batch] float32. Where the gradient was rescued, they grow with the loss on
            rescaled logits, and are smaller than the loss where it is not saturated.
        slope: [batch, classes] gradient, up to a positive factor for each sample.
        rescued: [batch] booleans, true where the gradient is that of the loss on rescaled logits.
    """

    losses: tf.Tensor
    slope: tf.Tensor
    rescued: tf.Tensor


def usable(gradient: tf.Tensor) -> tf.Tensor:
    """Return [batch] booleans, true where a gradient is finite and not zero.

    Args:
        gradient: [batch, ...].

    Example:
        >>> usable(tf.constant([[0.0, 1.0], [0.0, 0.0], [1.0, float("nan")]])).numpy().tolist()
        [True, False, False]
    """
    # The sum is neither 0 nor infinite, and it is cheaper than conditions of all entries.
    axes = list(range(1, len(gradient.shape)))
    total = tf.reduce_sum(tf.abs(tf.cast(gradient, tf.float32)), axes)
    return tf.math.is_finite(total) & (total > 0)


def gradients_found(gradient: tf.Tensor, rescued: tf.Tensor | bool = False) -> tf.Tensor:
    """Return [batch] int32: `FOUND`, `RESCUED` or `MISSING`.

    Args:
        gradient: [batch, ...] gradients with respect to the images.
        rescued: [batch] booleans, true where the loss itself has no gradient.

    Example:
        >>> gradient = tf.constant([[2.0], [2.0], [0.0]])
        >>> gradients_found(gradient, [False, True, True]).numpy().tolist()
        [3, 2, 1]
    """
    return tf.where(usable(gradient), tf.where(rescued, RESCUED, FOUND), MISSING)


def rescued_slope(loss: Loss, logits: Logits) -> Slope:
    """Return the losses and their gradients, on rescaled logits where those are zero or damaged.

    Logits are rescaled by a constant for each sample, so that they differ by 10 at most. The
    entries of a gradient add up to 0, as adding a constant to the logits does not change the loss.
    If they do not, the largest entry was lost to rounding.

    Args:
        loss: maps logits to a loss per sample, [batch]; it does not depend on a constant that is
            added to the logits.
        logits: [batch, classes].

    Example:
        >>> from hydra_tf.attacks.losses import cross_entropy
        >>> losses, slope, _ = rescued_slope(lambda z: cross_entropy([0], z), [[500.0, 0.0]])
        >>> losses.numpy().tolist(), tf.sign(slope).numpy().tolist()
        ([-20.0], [[-1.0, 1.0]])
    """
    logits = tf.convert_to_tensor(logits)
    losses, slope = _loss_and_slope(loss, logits)
    large = tf.reduce_max(tf.abs(tf.cast(slope, tf.float32)), axis=1) >= _TINY
    intact = usable(slope) & _is_balanced(slope)
    return tf.cond(
        tf.reduce_all(intact & large),
        lambda: Slope(losses, slope, tf.zeros_like(intact)),
        lambda: _rescue(loss, logits, Slope(losses, slope, ~intact)),
    )


def _rescue(loss: Loss, logits: Logits, found: Slope) -> Slope:
    """Return the slopes on rescaled logits where they are to be rescued, if there they have one.

    Slopes that are tiny are multiplied by a constant.
    """
    values = tf.cast(logits, tf.float32)
    shifted = values - tf.reduce_max(values, axis=1, keepdims=True)
    finite = tf.where(tf.math.is_finite(shifted), shifted, 0.0)  # a class may be masked by -inf
    scale = -tf.reduce_min(finite, axis=1, keepdims=True) / _GAP
    rescaled = tf.maximum(tf.math.divide_no_nan(shifted, scale), -_GAP)
    other_losses, other_slope = _loss_and_slope(loss, rescaled)
    # Divided by the scale, the slope may underflow; undivided, the backward pass may overflow.
    other_slope = tf.math.divide_no_nan(other_slope, tf.sqrt(scale))
    rescued = found.rescued & usable(other_slope)
    slope = tf.where(rescued[:, None], other_slope, tf.cast(found.slope, tf.float32))
    # Otherwise the backward pass of the network may underflow.
    tiny = tf.reduce_max(tf.abs(slope), axis=1, keepdims=True) < _TINY
    slope = tf.where(tiny, slope / _TINY, slope)
    # The cross-entropy is saturated only at correct predictions, so that others are preferred.
    losses = tf.where(rescued, other_losses - 2 * _GAP, found.losses)
    return Slope(losses, tf.cast(slope, logits.dtype), rescued)


def _is_balanced(slope: tf.Tensor) -> tf.Tensor:
    """Return [batch] booleans, true where the entries add up to 0, apart from rounding."""
    slope = tf.cast(slope, tf.float32)
    total = tf.abs(tf.reduce_sum(slope, axis=1))
    return total <= 0.5 * tf.reduce_max(tf.abs(slope), axis=1)


def _loss_and_slope(loss: Loss, logits: Logits) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(logits)
        losses = loss(logits)
        total = tf.reduce_sum(losses)
    zero = tf.UnconnectedGradients.ZERO
    return losses, tape.gradient(total, logits, unconnected_gradients=zero)


def missing_gradients(name: str, share: float, rescued: float | None = 0.0) -> str | None:
    """Return the sentence of a warning if too many images had no gradient, else None.

    Args:
        name: of the attack.
        share: of the attacked images, those for which the loss had no gradient in any step.
        rescued: of the attacked images, those among them that had one on rescaled logits; None if
            that is not known.

    Example:
        >>> missing_gradients("pgd", 0.005) is None
        True
        >>> print(missing_gradients("pgd", 0.4, 0.4))
        hydra_tf: the gradient of the attack "pgd" was zero or not finite at every step for 40.0% of
        the images, which may seem robust for that reason only. For 40.0% it followed the gradient
        on rescaled logits instead. Attack them with "autoattack" or "pgd:loss=margin" as well.
    """
    if share <= MAX_SHARE:
        return None
    sentences = [
        f'hydra_tf: the gradient of the attack "{name}" was zero or not finite at every step for '
        f"{share:.1%} of the images, which may seem robust for that reason only."
    ]
    if rescued:
        sentences.append(f"For {rescued:.1%} it followed the gradient on rescaled logits instead.")
    others = ['"autoattack"', '"pgd:loss=margin"']
    if rescued is None or share - rescued > MAX_SHARE:
        queries = ":queries=20000" if name == "autoattack" else ""  # of which it has 5,000
        others = ['"autoattack"', f'"square{queries}", which needs no gradient,']
    others = [other for other in others if other != f'"{name}"']
    return " ".join([*sentences, f"Attack them with {' or '.join(others)} as well."])
