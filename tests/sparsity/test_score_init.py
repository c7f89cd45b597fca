"""Initial scores."""

import math

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.sparsity import SCORE_INITS, initial_scores


def test_scaled_dense_by_hand():
    # fan_in 3, max|w| 4: sqrt(2) / 4 * w
    kernel = np.array([[1.0, -4.0], [0.0, 2.0], [3.0, 0.5]])
    np.testing.assert_allclose(initial_scores(kernel), math.sqrt(2) / 4 * kernel, rtol=1e-6)


def test_scaled_convolution_by_hand():
    # fan_in = 2 * 1 * 3 = 6, so the factor is 1 / max|w|.
    kernel = np.arange(24.0).reshape(2, 1, 3, 4) - 23
    scores = initial_scores(kernel, "scaled")
    assert scores.dtype == tf.float32
    np.testing.assert_allclose(scores, kernel / 23, rtol=1e-6)


@pytest.mark.parametrize("method", ["scaled", "magnitude"])
def test_a_kernel_of_zeros_gets_zeros(method):
    np.testing.assert_array_equal(initial_scores(np.zeros((3, 2)), method), np.zeros((3, 2)))


def test_snip_by_hand():
    scores = initial_scores([[2.0, -3.0]], "snip", gradient=[[-0.5, 4.0]])
    np.testing.assert_array_equal(scores, [[1, 12]])
    with pytest.raises(ValueError, match='"snip" needs the gradient'):
        initial_scores([[2.0, -3.0]], "snip")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("method", ["scaled", "magnitude", "snip", "random"])
def test_scores_are_float32_for_all_kernel_dtypes(dtype, method):
    kernel = tf.constant([[1.0, -0.5]], dtype)
    scores = initial_scores(kernel, method, gradient=kernel)
    expected = initial_scores([[1.0, -0.5]], method, gradient=[[1.0, -0.5]])
    assert scores.dtype == tf.float32
    np.testing.assert_array_equal(scores, expected)


RANDOM = {
    "random": 1.0,
    "kaiming_uniform": 2 / 90,
    "kaiming_normal": 2 / 90,
    "xavier_uniform": 2 / (90 + 1800),
    "xavier_normal": 2 / (90 + 1800),
}


@pytest.mark.parametrize("method", RANDOM)
def test_variance_of_random_scores(method):
    # fan_in = 3*3*10 = 90, fan_out = 3*3*200 = 1800.
    kernel = np.ones((3, 3, 10, 200))
    scores = initial_scores(kernel, method, seed=3).numpy()
    variance = RANDOM[method]
    # 18,000 draws: the variance of a normal sample is known to about 1%, the mean to 0.75%.
    assert scores.var() == pytest.approx(variance, rel=0.05)
    assert abs(scores.mean()) < 0.03 * math.sqrt(variance)
    if "normal" in method:
        assert np.abs(scores).max() > 3 * math.sqrt(variance)  # not truncated
    else:
        assert np.abs(scores).max() <= math.sqrt(3 * variance) * (1 + 1e-6)


@pytest.mark.parametrize("method", RANDOM)
def test_random_scores_depend_on_the_seed_only(method):
    ones, other = np.ones((8, 8)), np.full((8, 8), 7.0)
    first = initial_scores(ones, method, seed=1).numpy()
    np.testing.assert_array_equal(first, initial_scores(other, method, seed=1))
    assert (first != initial_scores(ones, method, seed=2).numpy()).mean() > 0.9


def test_callables_are_accepted_and_their_shape_is_checked():
    scores = initial_scores([[1.0, 2.0]], lambda kernel, seed, **_: kernel * 3 + seed, seed=1)
    np.testing.assert_array_equal(scores, [[4, 7]])
    message = r"shape \(2,\); they must have that of the kernel, \(1, 2\)"
    with pytest.raises(ValueError, match=message):
        initial_scores([[1.0, 2.0]], lambda kernel, **_: kernel[0])


def test_unknown_methods_suggest_the_nearest():
    with pytest.raises(ValueError, match='"scald"; did you mean "scaled"'):
        initial_scores([[1.0]], "scald")
    with pytest.raises(TypeError, match="one of kaiming, xavier, unit, not 'he'"):
        SCORE_INITS.build("random:scheme=he")
