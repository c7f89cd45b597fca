"""Untargeted and targeted losses of attacks, and which samples are misclassified."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Labels, Logits

Loss = Callable[[Logits], "tf.Tensor"]


def cross_entropy(y: Labels, logits: Logits) -> tf.Tensor:
    """Return the cross-entropy of each sample, [batch] float32, for integer labels.

    Example:
        >>> cross_entropy([0], [[0.0, 0.0]]).numpy().round(4).tolist()
        [0.6931]
    """
    logits = tf.cast(logits, tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)


def smoothed_cross_entropy(y: Labels, logits: Logits, label_smoothing: float) -> tf.Tensor:
    """Return the cross-entropy of each sample with smoothed labels (Szegedy et al., 2016), [batch].

    Args:
        y: [batch] integer labels.
        logits: [batch, classes].
        label_smoothing: share of the label that is spread evenly over all classes, in [0, 1).

    Example:
        >>> smoothed_cross_entropy([0], [[2.0, 0.0]], 0.5).numpy().round(4).tolist()
        [0.6269]
    """
    loss = cross_entropy(y, logits)
    if not label_smoothing:
        return loss
    spread = -tf.reduce_mean(tf.nn.log_softmax(tf.cast(logits, tf.float32)), axis=-1)
    return (1 - label_smoothing) * loss + label_smoothing * spread


def margin(y: Labels, logits: Logits) -> tf.Tensor:
    """Return the largest wrong logit minus the right one (Carlini and Wagner, 2017), [batch].

    Positive where the sample is misclassified.

    Example:
        >>> margin([0], [[3.0, 1.0, 2.0]]).numpy().tolist()
        [-1.0]
    """
    logits = tf.cast(logits, tf.float32)
    right = tf.one_hot(y, tf.shape(logits)[-1], on_value=True, off_value=False)
    wrong = tf.reduce_max(tf.where(right, -np.inf, logits), axis=-1)
    return wrong - tf.gather(logits, y, batch_dims=1)


def misclassified(y: Labels, logits: Logits) -> tf.Tensor:
    """Return [batch] booleans, true where the prediction is not the label.

    If several logits are largest, the first is the prediction, as in all accuracies.

    Example:
        >>> misclassified([0, 1], [[2.0, 2.0], [2.0, 2.0]]).numpy().tolist()
        [False, True]
    """
    return tf.argmax(logits, axis=-1, output_type=tf.int32) != tf.cast(y, tf.int32)


def dlr(y: Labels, logits: Logits) -> tf.Tensor:
    """Return the difference of logits ratio (Croce and Hein, ICML 2020, eq. 6), [batch].

    The margin divided by the gap between the largest and the third largest logit. It is
    invariant to shift and scale of the logits, so confident predictions do not mask gradients.
    With two classes it is the margin, the direction of whose gradient is invariant too.

    Args:
        y: [batch] integer labels.
        logits: [batch, classes].

    Example:
        >>> dlr([0], [[5.0, 3.0, 1.0, 0.0]]).numpy().tolist()
        [-0.5]
    """
    return tf.math.divide_no_nan(margin(y, logits), _gap(logits, 3))


def targeted_margin(y: Labels, target: Labels, logits: Logits) -> tf.Tensor:
    """Return the target's logit minus the right one, [batch]; positive if misclassified.

    Example:
        >>> targeted_margin([0], [2], [[5.0, 3.0, 1.0]]).numpy().tolist()
        [-4.0]
    """
    logits = tf.cast(logits, tf.float32)
    return tf.gather(logits, target, batch_dims=1) - tf.gather(logits, y, batch_dims=1)


def targeted_dlr(y: Labels, target: Labels, logits: Logits) -> tf.Tensor:
    """Return the targeted difference of logits ratio (Croce and Hein, 2020, eq. 7), [batch].

    The target's logit minus the right one, divided by the gap between the largest logit and
    the mean of the third and fourth largest. With three classes it is the gap to the third;
    with two nothing is divided.

    Args:
        y: [batch] integer labels.
        target: [batch] target classes.
        logits: [batch, classes].

    Example:
        >>> targeted_dlr([0], [2], [[5.0, 3.0, 1.0, 0.0]]).numpy().round(4).tolist()
        [-0.8889]
    """
    return tf.math.divide_no_nan(targeted_margin(y, target, logits), _gap(logits, 4))


def _gap(logits: Logits, last: int) -> tf.Tensor:
    """Return the largest logit minus the mean of the third to `last` largest; or else 1."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] < 3:
        return tf.ones_like(logits[:, 0])
    ranked = tf.math.top_k(logits, min(last, logits.shape[-1])).values
    return ranked[:, 0] - tf.reduce_mean(ranked[:, 2:], axis=-1)


def targeted_cross_entropy(y: Labels, target: Labels, logits: Logits) -> tf.Tensor:
    """Return minus the cross-entropy of the target, [batch]; the label is ignored.

    Example:
        >>> targeted_cross_entropy([0], [1], [[0.0, 0.0]]).numpy().round(4).tolist()
        [-0.6931]
    """
    del y
    return -cross_entropy(target, logits)


def likely_targets(y: Labels, logits: Logits, count: int) -> tf.Tensor:
    """Return the wrong classes with the largest logits, [batch, min(count, classes - 1)].

    Args:
        y: [batch] integer labels.
        logits: [batch, classes] of the benign images.
        count: number of classes, at least 1.

    Raises:
        ValueError: if there is no wrong class.

    Example:
        >>> likely_targets([0], [[5.0, 1.0, 3.0]], 9).numpy().tolist()
        [[2, 1]]
    """
    logits = tf.convert_to_tensor(logits)
    classes = logits.shape[-1]
    if classes is None or classes < 2:
        raise ValueError(
            "A targeted attack needs a model that outputs logits of a known number of classes, "
            f"at least 2, but the output has the shape {tuple(logits.shape)}."
        )
    right = tf.one_hot(y, classes, on_value=True, off_value=False)
    wrong = tf.where(right, tf.cast(-np.inf, logits.dtype), logits)
    return tf.math.top_k(wrong, min(count, classes - 1)).indices


UNTARGETED = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED = {"ce": targeted_cross_entropy, "margin": targeted_margin, "dlr": targeted_dlr}
