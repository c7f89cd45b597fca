"""Upper bounds of float32 rounding errors.

A sum of n products evaluated in floating point, in any order and with or without fused
multiply-adds, is wrong by at most ``gamma(n)`` times the sum of the products' magnitudes, where
``gamma(n) = n u / (1 - n u)`` and ``u = 2**-24`` (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1). Both the network whose outputs are bounded and the
computation of the bound round. The error of every layer includes both, computed from the
magnitudes of its possible inputs.

This covers every float32 evaluation that computes the products and adds them, as convolutions on
CPUs do. Other evaluations (Winograd transforms, TensorFloat-32, half precision, BatchNorm folded
into kernels) are not covered.
"""

from __future__ import annotations

import math

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

U = 2.0**-24
TINY = 2.0**-120  # far above what flushing subnormal numbers to zero can lose


def gamma(terms: int) -> float:
    """Return a bound on the relative error of `terms` consecutive float32 operations.

    Raises:
        ValueError: for so many terms that no digit is certain.

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
    """Return the largest absolute value within each interval.

    Example:
        >>> magnitude(Interval(tf.constant([-3.0]), tf.constant([2.0]))).numpy().tolist()
        [3.0]
    """
    return tf.maximum(tf.abs(interval.lower), tf.abs(interval.upper))


def outward(interval: Interval, units: float = 4.0) -> Interval:
    """Widen both ends by `units` roundings of the larger one; an overflowed end is infinite.

    Example:
        >>> outward(Interval(tf.constant([1.0]), tf.constant([2.0]))).lower.numpy() < 1
        array([ True])
    """
    slack = (units * U) * magnitude(interval) + TINY
    lower, upper = interval.lower - slack, interval.upper + slack
    lower = tf.where(tf.math.is_nan(lower), -np.inf, lower)
    return Interval(lower, tf.where(tf.math.is_nan(upper), np.inf, upper))


def floor32(values: tf.Tensor) -> tf.Tensor:
    """Return float32 numbers that are not above the given ones, and -inf for NaN.

    Example:
        >>> floor32(tf.constant([1.0, np.nan], tf.float64)).numpy() < 1
        array([ True,  True])
    """
    nearest = tf.cast(values, tf.float32)
    below = nearest - (4 * U) * tf.abs(nearest) - TINY
    return tf.where(tf.math.is_nan(below), -np.inf, below)


def dot(rows: tf.Tensor, values: tf.Tensor, exact: bool) -> tf.Tensor:
    """Return the inner products of coefficient rows with one vector per sample.

    Args:
        rows: [batch or 1, rows, ...] coefficients.
        values: [batch or 1, ...].
        exact: whether to multiply and add in float64, whose rounding is negligible against the
            margins that the callers add.

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
    if values.shape[0] == 1:  # one vector for all samples: one matrix product, also for gradients
        flat = tf.reshape(rows, [samples * count, length])
        products = tf.matmul(tf.reshape(values, [1, length]), flat, transpose_b=True)
        return tf.reshape(products, [samples, count])
    flat = tf.reshape(rows, [samples, count, length])
    values = tf.reshape(values, [sizes(values)[0], 1, length])
    return tf.squeeze(tf.matmul(values, flat, transpose_b=True), 1)


def sizes(tensor: tf.Tensor) -> list[int]:
    """Return the sizes of a tensor: integers where static, scalar tensors where not.

    Example:
        >>> sizes(tf.zeros([2, 3]))
        [2, 3]
    """
    static: list[int | None] = tensor.shape.as_list()
    if None not in static:
        return static  # type: ignore[return-value]
    dynamic = tf.unstack(tf.shape(tensor))
    return [dynamic[i] if size is None else size for i, size in enumerate(static)]
