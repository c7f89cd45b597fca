"""The straight-through gradient, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.sparsity.topk import masked_kernel

KERNEL = [2.0, -3.0, 5.0, 0.0]
SCORES = [1.0, -0.5, 0.1, 0.0]
MASK = [1.0, 1.0, 0.0, 0.0]
UPSTREAM = [10.0, 20.0, 30.0, 40.0]


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_values_and_gradients_by_hand(wrap, dtype):
    kernel, scores = tf.constant(KERNEL, dtype), tf.constant(SCORES)

    @wrap
    def gradients(kernel, scores):
        with tf.GradientTape() as tape:
            tape.watch([kernel, scores])
            product = masked_kernel(kernel, scores, tf.constant(MASK))
        upstream = tf.constant(UPSTREAM, product.dtype)
        return product, *tape.gradient(product, [kernel, scores], output_gradients=upstream)

    product, to_kernel, to_scores = gradients(kernel, scores)
    assert (product.dtype, to_kernel.dtype, to_scores.dtype) == (dtype, dtype, "float32")
    np.testing.assert_array_equal(product, [2, -3, 0, 0])
    np.testing.assert_array_equal(to_kernel, [10, 20, 0, 0])
    # g * w * sign(s): the pruned third weight has a gradient too.
    np.testing.assert_array_equal(to_scores, [20, 60, 150, 0])


def test_small_half_precision_gradients_reach_the_scores():
    # 2^-14 * 2^-14 = 2^-28 is below the smallest float16, 2^-24.
    small = 2.0**-14
    kernel, scores = tf.constant([small], tf.float16), tf.constant([1.0])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        product = masked_kernel(kernel, scores, tf.constant([1.0]))
    upstream = tf.constant([small], tf.float16)
    assert float(tape.gradient(product, scores, upstream)[0]) == small * small


def test_the_mask_gets_no_gradient():
    mask = tf.constant(MASK)
    with tf.GradientTape() as tape:
        tape.watch(mask)
        product = masked_kernel(tf.constant(KERNEL), tf.constant(SCORES), mask)
    assert tape.gradient(product, mask) is None
