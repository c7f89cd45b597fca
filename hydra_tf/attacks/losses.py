"""Losses that no scale of the logits can hide, and losses towards a target class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf

Loss = Callable[[Any], Any]


def cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each sample, [batch], for integer labels and logits in float32.

    Example:
        >>> cross_entropy([0], [[0.0, 0.0]]).numpy().round(4).tolist()
        [0.6931]
    """
    logits = tf.cast(logits, tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)


def margin(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The largest wrong logit less the right one (Carlini and Wagner, 2017), [batch].

    Positive where the sample is misclassified.

    Example:
        >>> margin([0], [[3.0, 1.0, 2.0]]).numpy().tolist()
        [-1.0]
    """
    logits = tf.cast(logits, tf.float32)
    right = tf.one_hot(y, tf.shape(logits)[-1], on_value=True, off_value=False)
    wrong = tf.reduce_max(tf.where(right, -np.inf, logits), axis=-1)
    return wrong - tf.gather(logits, y, batch_dims=1)


def misclassified(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Where the prediction is not the label, [batch] booleans.

    Of equal logits the first is the prediction, as in every accuracy.

    Example:
        >>> misclassified([0, 1], [[2.0, 2.0], [2.0, 2.0]]).numpy().tolist()
        [False, True]
    """
    return tf.argmax(logits, axis=-1, output_type=tf.int32) != tf.cast(y, tf.int32)


def dlr(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Difference of logits ratio (Croce and Hein, ICML 2020, eq. 6), [batch].

    The margin over the gap between the first and the third logit: neither a shift nor a
    factor of the logits changes it, so a network cannot hide its gradients by being sure.
    Two classes have no third logit; what is left is the margin, whose gradient has the same
    direction at every factor.

    Args:
        y: [batch] integer labels.
        logits: [batch, classes].

    Example:
        >>> dlr([0], [[5.0, 3.0, 1.0, 0.0]]).numpy().tolist()
        [-0.5]
    """
    return tf.math.divide_no_nan(margin(y, logits), _gap(logits, 3))


def targeted_margin(y: tf.Tensor, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The target's logit less the right one, [batch]; positive where the sample is broken.

    Example:
        >>> targeted_margin([0], [2], [[5.0, 3.0, 1.0]]).numpy().tolist()
        [-4.0]
    """
    logits = tf.cast(logits, tf.float32)
    return tf.gather(logits, target, batch_dims=1) - tf.gather(logits, y, batch_dims=1)


def targeted_dlr(y: tf.Tensor, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Targeted difference of logits ratio (Croce and Hein, ICML 2020, eq. 7), [batch].

    The target's logit less the right one, over the gap between the first logit and the
    mean of the third and fourth; three classes leave out the fourth, two the division.

    Args:
        y: [batch] integer labels.
        target: [batch] classes to be taken for.
        logits: [batch, classes].

    Example:
        >>> targeted_dlr([0], [2], [[5.0, 3.0, 1.0, 0.0]]).numpy().round(4).tolist()
        [-0.8889]
    """
    return tf.math.divide_no_nan(targeted_margin(y, target, logits), _gap(logits, 4))


def _gap(logits: tf.Tensor, last: int) -> Any:
    """The first logit less the mean of the third to the `last`, [batch]; 1 without a third."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] < 3:
        return tf.ones_like(logits[:, 0])
    ranked = tf.math.top_k(logits, min(last, logits.shape[-1])).values
    return ranked[:, 0] - tf.reduce_mean(ranked[:, 2:], axis=-1)


def targeted_cross_entropy(y: tf.Tensor, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Less the cross-entropy of the target, [batch]; the label has no say.

    Example:
        >>> targeted_cross_entropy([0], [1], [[0.0, 0.0]]).numpy().round(4).tolist()
        [-0.6931]
    """
    del y
    return -cross_entropy(target, logits)


def likely_targets(y: tf.Tensor, logits: tf.Tensor, count: int) -> tf.Tensor:
    """Return the wrong classes of largest logits, [batch, min(count, classes - 1)].

    Args:
        y: [batch] integer labels.
        logits: [batch, classes] of the images themselves.
        count: how many, at least 1.

    Raises:
        ValueError: when there is no wrong class.

    Example:
        >>> likely_targets([0], [[5.0, 1.0, 3.0]], 9).numpy().tolist()
        [[2, 1]]
    """
    logits = tf.convert_to_tensor(logits)
    classes = logits.shape[-1]
    if classes is None or classes < 2:
        raise ValueError(
            "A targeted attack needs a model that outputs logits of a known number of classes, "
            f"at least 2, but its output has the shape {tuple(logits.shape)}."
        )
    right = tf.one_hot(y, classes, on_value=True, off_value=False)
    wrong = tf.where(right, tf.cast(-np.inf, logits.dtype), logits)
    return tf.math.top_k(wrong, min(count, classes - 1)).indices


UNTARGETED = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED = {"ce": targeted_cross_entropy, "margin": targeted_margin, "dlr": targeted_dlr}
