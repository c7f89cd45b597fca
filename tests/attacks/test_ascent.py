"""Losses and the ascent loop against closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from hydra_tf import attacks
from hydra_tf.attacks.ascent import ascend, ascend_best
from hydra_tf.attacks.losses import cross_entropy, margin
from hydra_tf.objectives.base import kl_divergence

# TensorFlow flushes subnormal numbers to zero.
LOGITS = hnp.arrays("float32", (4, 5), elements=st.floats(-20, 20, width=32, allow_subnormal=False))
LABELS = hnp.arrays("int32", 4, elements=st.integers(0, 4))


@settings(deadline=None, max_examples=40)
@given(logits=LOGITS, y=LABELS)
def test_cross_entropy_is_scipys(logits, y):
    expected = -special.log_softmax(logits.astype("float64"), axis=1)[np.arange(4), y]
    np.testing.assert_allclose(cross_entropy(y, logits), expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(logits=LOGITS, y=LABELS)
def test_margin_is_the_best_wrong_logit_less_the_right_one(logits, y):
    wrong = [np.delete(row, label).max() for row, label in zip(logits, y, strict=True)]
    np.testing.assert_array_equal(margin(y, logits), wrong - logits[np.arange(4), y])


@settings(deadline=None, max_examples=40)
@given(target=LOGITS, logits=LOGITS)
def test_kl_divergence_is_scipys_entropy(target, logits):
    p = special.softmax(target.astype("float64"), axis=1)
    q = special.softmax(logits.astype("float64"), axis=1)
    found = kl_divergence(target, logits).numpy()
    np.testing.assert_allclose(found, stats.entropy(p, q, axis=1), rtol=1e-4, atol=1e-5)
    assert (found >= -1e-6).all()


def test_kl_divergence_by_hand_and_in_its_direction():
    # (1/2, 1/2) against (3/4, 1/4): ln(2/3)/2 + ln(2)/2 = ln(4/3)/2; the other way round
    # 3/4 ln(3/2) + 1/4 ln(1/2).
    half, skewed = [[0.0, 0.0]], [[np.log(3.0), 0.0]]
    assert kl_divergence(half, skewed).numpy()[0] == pytest.approx(np.log(4 / 3) / 2, rel=1e-6)
    other = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert kl_divergence(skewed, half).numpy()[0] == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_losses_of_half_precision_logits_are_float32(dtype):
    logits = tf.cast([[1.0, 3.0, -2.0]], dtype)
    assert cross_entropy([1], logits).dtype == margin([1], logits).dtype == tf.float32
    assert kl_divergence(logits, logits).dtype == tf.float32
    np.testing.assert_allclose(margin([1], logits), [-2.0])


def linear(weights, bias=0.0):
    """Two logits, 0 and weights . x + bias; label 0 makes every loss grow with the latter."""
    weights = tf.reshape(tf.constant(weights, tf.float32), [-1, 1])

    def predict(x, training=False):
        score = tf.reshape(x, [tf.shape(x)[0], -1]) @ weights + bias
        return tf.concat([tf.zeros_like(score), score], axis=1)

    return predict


def ascend_linear(weights, x, norm, epsilon, step_size, steps):
    x = tf.constant(x, tf.float32)
    y = tf.zeros(len(x), tf.int32)
    kwargs = {"norm": norm, "epsilon": epsilon, "step_size": step_size, "steps": steps}
    run = lambda: ascend(linear(weights), x, x, lambda z: cross_entropy(y, z), **kwargs)  # noqa: E731
    return (tf.function(run) if steps > 50 else run)().numpy()


@settings(deadline=None, max_examples=15)
@given(
    x=hnp.arrays("float32", (3, 6), elements=st.floats(0, 1, width=32)),
    weights=hnp.arrays("int8", 6, elements=st.integers(-5, 5)),
    epsilon=st.floats(0.01, 0.6),
)
def test_linf_ascent_reaches_the_optimum_of_a_linear_model(x, weights, epsilon):
    # Pixels are independent: each goes to its bound, the box included.
    expected = np.clip(x + epsilon * np.sign(weights), 0, 1)
    found = ascend_linear(weights, x, "linf", epsilon, epsilon / 4, 5)
    np.testing.assert_allclose(found, expected, atol=5e-7)


@settings(deadline=None, max_examples=15)
@given(
    weights=hnp.arrays("int8", 6, elements=st.integers(-5, 5)).filter(np.any),
    epsilon=st.floats(0.01, 0.4),
)
def test_l2_ascent_reaches_the_optimum_when_the_pixel_range_is_slack(weights, epsilon):
    x = np.full((1, 6), 0.5)
    expected = x + epsilon * weights / np.linalg.norm(weights)
    from_centre = ascend_linear(weights, x, "l2", epsilon, epsilon / 4, 6)
    np.testing.assert_allclose(from_centre, expected, atol=1e-6)


def test_l2_ascent_comes_to_the_optimum_of_ball_and_pixel_range_as_steps_shrink():
    # w = (4, 3)/5 from (0.9, 0.5), radius 0.5. Alone the ball would give (1.3, 0.8); the
    # first pixel stops at 1, the second takes the rest: sqrt(0.25 - 0.01).
    weights, x, epsilon = np.array([0.8, 0.6]), np.array([[0.9, 0.5]]), 0.5
    optimum = 0.8 * 0.1 + 0.6 * np.sqrt(0.24)
    gaps = []
    for step in (0.05, 0.005, 0.0005):
        change = ascend_linear(weights, x, "l2", epsilon, step, round(4 / step))[0] - x[0]
        assert np.linalg.norm(change) == pytest.approx(epsilon, abs=1e-6)
        gaps.append(optimum - change @ weights)
        # A step overshoots the ball by at most its length, so pixels that stand at their
        # bound are drawn back by at most the factor epsilon / (epsilon + step).
        assert -1e-6 <= gaps[-1] <= 0.8 * 0.1 * step / (epsilon + step) + 1e-6
    assert gaps[0] > gaps[1] > gaps[2]


def test_the_last_iterate_is_returned_and_carries_no_gradient():
    x = tf.constant([[0.5, 0.5]])
    predict = linear([1.0, -1.0])
    kwargs = {"norm": "linf", "epsilon": 0.3, "step_size": 0.1}
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = ascend(predict, x, x, lambda z: cross_entropy([0], z), **kwargs, steps=2)
        total = tf.reduce_sum(found)
    np.testing.assert_allclose(found, [[0.7, 0.3]], rtol=1e-6)
    assert tape.gradient(total, x) is None
    unmoved = ascend(predict, x, x + 0.1, lambda z: cross_entropy([0], z), **kwargs, steps=0)
    np.testing.assert_allclose(unmoved, [[0.6, 0.6]])


def test_best_iterate_beats_the_last_where_steps_overshoot():
    # The loss is a tent with its top at 0.6; steps of 0.2 from 0.5 go 0.5, 0.7, 0.5, 0.7 ...
    def predict(x):
        return tf.concat([tf.zeros_like(x), -tf.abs(x - 0.6)], 1)

    x = tf.constant([[0.45]])
    kwargs = {"norm": "linf", "epsilon": 0.4, "step_size": 0.1, "steps": 4}
    loss = lambda z: cross_entropy([0], z)  # noqa: E731
    # From 0.45: 0.55, 0.65, 0.55, 0.65. The two tops are met from both sides; 0.45 is lower.
    last = ascend(predict, x, x, loss, **kwargs)
    best, broken, _ = ascend_best(predict, x, x, loss, tf.constant([0]), **kwargs)
    at = [float(loss(predict(z))[0]) for z in (x, last, best)]
    assert at[0] < at[1] <= at[2]
    assert not broken.numpy()[0]


def test_best_iterate_prefers_a_broken_sample_to_a_larger_loss():
    # Class 1 wins only between 0.5 and 0.6. The loss is the last logit, which grows with the pixel.
    seen = []

    def predict(x):
        seen.append(x.numpy()[0, 0])
        inside = tf.cast((x > 0.5) & (x < 0.6), tf.float32)
        return tf.concat([tf.ones_like(x) * 0.5, inside, x - 10], 1)

    x = tf.constant([[0.45]])
    kwargs = {"norm": "linf", "epsilon": 0.5, "step_size": 0.1, "steps": 3}
    best, broken, _ = ascend_best(
        predict, x, x, lambda logits: logits[:, 2], tf.constant([0]), **kwargs
    )
    np.testing.assert_allclose(seen, [0.45, 0.55, 0.65, 0.75], rtol=1e-6)
    assert broken.numpy().tolist() == [True]
    np.testing.assert_allclose(best, [[0.55]], rtol=1e-6)


def test_a_tie_that_the_classifier_gets_right_is_not_broken():
    # argmax takes the first of equal logits, and so does every accuracy in this library.
    def predict(x):
        return tf.concat([x, x], 1)

    x = tf.constant([[0.5], [0.5]])
    kwargs = {"norm": "linf", "epsilon": 0.1, "step_size": 0.1, "steps": 1}
    y = tf.constant([0, 1])
    _, broken, _ = ascend_best(predict, x, x, lambda z: cross_entropy(y, z), y, **kwargs)
    assert broken.numpy().tolist() == [False, True]


def test_fgsm_by_hand():
    x = np.array([[0.5, 0.5, 0.95]], "float32")
    model = linear([1.0, -2.0, 2.0])
    linf = attacks.build("fgsm:epsilon=0.1")(model, x, [0])
    np.testing.assert_allclose(linf, [[0.6, 0.4, 1.0]], rtol=1e-6)
    # Length 3: the step is (0.1, -0.2, 0.2); 1.15 is cut to 1, what is left is in the ball.
    l2 = attacks.build("fgsm:norm=l2,epsilon=0.3")(model, x, [0])
    np.testing.assert_allclose(l2, [[0.6, 0.3, 1.0]], rtol=1e-6)
    # Label 1 turns the gradient round.
    other = attacks.build("fgsm:epsilon=0.1")(model, x, [1])
    np.testing.assert_allclose(other, [[0.4, 0.6, 0.85]], rtol=1e-6)
