"""Upper bounds of float32 rounding errors, underflow and overflow.

Rounding. A sum of n products evaluated in floating point, in any order and with or without fused
multiply-adds, is wrong by at most ``gamma(n)`` times the sum of the products' magnitudes, where
``gamma(n) = n u / (1 - n u)`` and ``u = 2**-24`` (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1). Both the network whose outputs are bounded and the
computation of the bound round. The error of every layer includes both, computed from the
magnitudes of its possible inputs.

Underflow. Below ``2**-126`` numbers are subnormal. TensorFlow may replace them by 0, both the
operands and the result of an operation, and it may not, so a number of the bound or of the network
stands for itself plus or minus ``2**-126``. For a sum of n products ``w x`` this adds up to
``2**-126`` times ``(sum of |w|) + (sum of |x|) + 2 n``. It is not small if a factor is large, such
as an activation of 1e38. Each of the three sums is accounted for with ``TINY``, which is 64 times
larger and so covers the network, the bound, and the evaluation of the error itself:

- forwards, TINY is added to the error of each input, which the map with the weights' magnitudes
  multiplies (sum of ``|w|``), and :func:`underflow` is added to each output (the other two);
- backwards, a coefficient ``c = sum of r w`` on an input x is wrong by ``2**-126`` times
  ``(sum of |w|) + (sum of |r|) + 2 n``, which changes the linear function by this times ``|x|``.
  The second sum is the term above for ``r``. :func:`coefficient_underflow` covers the other two,
  which do not depend on the coefficients. The minimum over a box reads coefficients once more.

Overflow. An output whose error, forwards with the radius of its interval, reaches
``LIMIT = 2**100`` is unbounded. Nodes evaluate the same sums as the network. An error is at least
``gamma(n)`` times the sum of the magnitudes of the n products, so below the limit this sum, and n
times it, are below ``2**124``: no order of evaluation overflows. Infinite coefficients make the
bound NaN or infinite, because each is multiplied by a positive error, and :func:`floor32` returns
-inf for both.

This covers every float32 evaluation that computes the products and adds them, as convolutions on
CPUs do. Other evaluations (Winograd transforms, TensorFloat-32, half precision, BatchNorm folded
into kernels) are not covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

U = 2.0**-24
TINY = 2.0**-120  # 64 times the smallest normal number
LIMIT = 2.0**100  # outputs whose error is larger are unbounded


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
    """Widen both ends by `units` roundings of the larger one; an undefined end is infinite.

    Example:
        >>> outward(Interval(tf.constant([1.0]), tf.constant([2.0]))).lower.numpy() < 1
        array([ True])
    """
    slack = (units * U) * magnitude(interval) + TINY
    lower, upper = interval.lower - slack, interval.upper + slack
    # False for NaN, and for an end that has overflowed to the wrong side.
    lower = tf.where(lower < np.inf, lower, -np.inf)
    return Interval(lower, tf.where(upper > -np.inf, upper, np.inf))


def limited(error: tf.Tensor) -> tf.Tensor:
    """Return an error, or infinity where it is so large that a sum may have overflowed.

    Example:
        >>> limited(tf.constant([1.0, 1e31, np.nan])).numpy().tolist()
        [1.0, inf, inf]
    """
    return tf.where(error < LIMIT, error, np.inf)


def total_magnitude(inputs: Sequence[Interval]) -> tf.Tensor:
    """Return the sum of the magnitudes of all inputs of a node, [batch] float64.

    Example:
        >>> total_magnitude([Interval(tf.constant([[-3.0, 1.0]]), tf.constant([[2.0, 1.0]]))])
        <tf.Tensor: shape=(1,), dtype=float64, numpy=array([4.])>
    """
    sums = []
    for interval in inputs:
        values = tf.cast(magnitude(interval), tf.float64)
        sums.append(tf.reduce_sum(values, axis=range(1, len(values.shape))))
    return tf.add_n(sums)


def underflow(inputs: Sequence[Interval], terms: int, rank: int) -> tf.Tensor:
    """Return the part of an output's underflow that does not grow with the weights.

    Args:
        inputs: intervals of the inputs of a node, [batch, ...].
        terms: products that are added up for an output.
        rank: number of axes of the output.

    Returns:
        [batch, 1, ..., 1] float32.

    Example:
        >>> interval = Interval(tf.constant([[0.0]]), tf.constant([[0.0]]))
        >>> underflow([interval], 3, 2).numpy().tolist() == [[4 * TINY]]
        True
    """
    lost = TINY * (terms + 1 + total_magnitude(inputs))
    return tf.reshape(tf.cast(lost, tf.float32), [-1] + [1] * (rank - 1))


def coefficient_underflow(inputs: Sequence[Interval], error: tf.Tensor) -> tf.Tensor:
    """Return what the coefficients on the inputs of a node can lose to underflow, [batch] float64.

    Args:
        inputs: intervals of the inputs, [batch, ...].
        error: rounding error of each output for a coefficient of 1, [batch or 1, ...]. It is at
            least ``5 u`` times the sum of the magnitudes of the products, so ``2**-100`` times the
            error is at least ``2**-122`` times this sum.

    Example:
        >>> interval = Interval(tf.constant([[0.0]]), tf.constant([[2.0]]))
        >>> (coefficient_underflow([interval], tf.constant([[0.0, 0.0]])) / TINY).numpy().tolist()
        [4.0]
    """
    outputs = math.prod(sizes(error)[1:])
    errors = tf.reduce_sum(tf.cast(error, tf.float64), axis=range(1, len(error.shape)))
    outputs = tf.cast(outputs, tf.float64)
    return 2.0**-100 * errors + TINY * outputs * total_magnitude(inputs)


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
