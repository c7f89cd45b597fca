"""What float32 arithmetic may add to a result, bounded from above.

A sum of n products evaluated in floating point, in any order and with fused multiply-adds or
without, is off by at most ``gamma(n)`` times the sum of the products' magnitudes, where
``gamma(n) = n u / (1 - n u)`` and ``u = 2**-24`` (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1). Two sides round: the network whose outputs are bounded, and the
bound that is computed. Every layer is charged for both, from the magnitudes that can reach it.

This covers every float32 evaluation that forms the products and adds them, as convolutions on
CPUs do. Evaluations that do something else (Winograd transforms, TensorFloat-32, half
precision, BatchNorm folded into kernels) are not covered.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

U = 2.0**-24
TINY = 2.0**-120  # far above what flushing subnormal numbers to zero can lose


def gamma(terms: int) -> float:
    """Bound on the relative error of `terms` float32 operations in a row.

    Raises:
        ValueError: for so many that float32 says nothing.

    Example:
        >>> gamma(2) < 1.2e-7
        True
    """
    if terms * U >= 0.5:
        raise ValueError(
            f"A sum of {terms} float32 products has no digit that is certain; use rounding=False."
        )
    return terms * U / (1 - terms * U)


def magnitude(interval: Interval) -> tf.Tensor:
    """The largest absolute value within each interval.

    Example:
        >>> magnitude(Interval(tf.constant([-3.0]), tf.constant([2.0]))).numpy().tolist()
        [3.0]
    """
    return tf.maximum(tf.abs(interval.lower), tf.abs(interval.upper))


def outward(interval: Interval, units: float = 4.0) -> Interval:
    """Widen each end by `units` roundings of the larger one; an end that overflowed is infinite.

    Example:
        >>> outward(Interval(tf.constant([1.0]), tf.constant([2.0]))).lower.numpy() < 1
        array([ True])
    """
    slack = (units * U) * magnitude(interval) + TINY
    lower, upper = interval.lower - slack, interval.upper + slack
    lower = tf.where(tf.math.is_nan(lower), -np.inf, lower)
    return Interval(lower, tf.where(tf.math.is_nan(upper), np.inf, upper))


def floor32(values: tf.Tensor) -> tf.Tensor:
    """Return float32 numbers that are not above the given ones; NaN says nothing: -inf.

    Example:
        >>> floor32(tf.constant([1.0, np.nan], tf.float64)).numpy() < 1
        array([ True,  True])
    """
    nearest = tf.cast(values, tf.float32)
    below = nearest - (4 * U) * tf.abs(nearest) - TINY
    return tf.where(tf.math.is_nan(below), -np.inf, below)


def dot(rows: tf.Tensor, values: Any, exact: bool) -> tf.Tensor:
    """Inner product of coefficient rows with one vector a sample.

    Args:
        rows: [batch or 1, rows, ...] coefficients.
        values: [batch or 1, ...].
        exact: whether to multiply and add in float64, whose own rounding the callers'
            margins dwarf.

    Returns:
        [batch or 1, rows] float32, or float64 when exact.

    Example:
        >>> dot(tf.constant([[[1.0, 2.0]]]), tf.constant([[3.0, 4.0]]), False).numpy().tolist()
        [[11.0]]
    """
    if exact:
        rows, values = tf.cast(rows, tf.float64), tf.cast(values, tf.float64)
    samples, count, *inner = sizes(rows)
    length = math.prod(inner)
    if values.shape[0] == 1:  # one vector for all samples: one product, whose gradient is one too
        flat = tf.reshape(rows, [samples * count, length])
        found = tf.matmul(tf.reshape(values, [1, length]), flat, transpose_b=True)
        return tf.reshape(found, [samples, count])
    flat = tf.reshape(rows, [samples, count, length])
    values = tf.reshape(values, [sizes(values)[0], 1, length])
    return tf.squeeze(tf.matmul(values, flat, transpose_b=True), 1)


def sizes(tensor: Any) -> list[Any]:
    """Sizes of a tensor, as whole numbers where they are known and scalar tensors elsewhere.

    Example:
        >>> sizes(tf.zeros([2, 3]))
        [2, 3]
    """
    known = tensor.shape.as_list()
    if None not in known:
        return known
    dynamic = tf.unstack(tf.shape(tensor))
    return [dynamic[i] if size is None else size for i, size in enumerate(known)]
