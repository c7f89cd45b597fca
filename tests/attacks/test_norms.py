"""Geometry of the balls: projections, steepest steps, random starts."""

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.utils import optimize_linear
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from hydra_tf.attacks import project, random_start, steepest_step

NORMS = ("linf", "l2")
PIXELS = hnp.arrays("float32", (3, 5), elements=st.floats(0, 1, width=32))
ANYTHING = hnp.arrays("float32", (3, 5), elements=st.floats(-3, 3, width=32))
RADII = st.floats(0, 2, width=32)


def length(change, norm):
    flat = np.reshape(np.asarray(change, "float64"), (len(change), -1))
    return np.linalg.norm(flat, ord=np.inf if norm == "linf" else 2, axis=1)


def projected(x_adv, x, norm, epsilon):
    as_tensor = (tf.constant(x_adv, tf.float32), tf.constant(x, tf.float32))
    return project(*as_tensor, norm, epsilon).numpy()


@pytest.mark.parametrize(
    ("norm", "x_adv", "x", "epsilon", "expected"),
    [
        ("linf", [0.9, 0.1, 0.55], [0.5, 0.5, 0.5], 0.25, [0.75, 0.25, 0.55]),
        ("linf", [2.0, -2.0, 0.5], [0.9, 0.1, 0.5], 0.25, [1.0, 0.0, 0.5]),
        ("l2", [0.8, 0.9, 0.5], [0.5, 0.5, 0.5], 0.25, [0.65, 0.7, 0.5]),  # 3-4-5 halved
        ("l2", [0.53, 0.54, 0.5], [0.5, 0.5, 0.5], 0.25, [0.53, 0.54, 0.5]),
        # The pixel range first (0.5 + 0.3, 1.3 -> 1), then the 3-4-5 triangle of length 0.5.
        ("l2", [0.8, 1.3, 0.5], [0.5, 0.6, 0.5], 0.25, [0.65, 0.8, 0.5]),
        ("linf", [0.9, 0.1, 0.2], [0.5, 0.4, 0.3], 0.0, [0.5, 0.4, 0.3]),
        ("l2", [0.9, 0.1, 0.2], [0.5, 0.4, 0.3], 0.0, [0.5, 0.4, 0.3]),
    ],
)
def test_projection_by_hand(norm, x_adv, x, epsilon, expected):
    np.testing.assert_allclose(projected([x_adv], [x], norm, epsilon), [expected], atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=60)
@given(x_adv=ANYTHING, x=PIXELS, epsilon=RADII)
def test_projection_stays_in_ball_and_pixel_range_and_is_idempotent(norm, x_adv, x, epsilon):
    once = projected(x_adv, x, norm, epsilon)
    assert once.min() >= 0
    assert once.max() <= 1
    assert (length(once - x, norm) <= epsilon * (1 + 1e-6) + 2e-7).all()
    np.testing.assert_allclose(projected(once, x, norm, epsilon), once, atol=2e-7)


@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=30)
@given(x=PIXELS, change=ANYTHING, epsilon=st.floats(0.01, 2))
def test_projection_leaves_points_inside_alone(norm, x, change, epsilon):
    inside = np.clip(x + change * 0.1 * epsilon / 3 / np.sqrt(5), 0, 1)
    np.testing.assert_allclose(projected(inside, x, norm, epsilon), inside, atol=1.2e-7)


@settings(deadline=None, max_examples=15)
@given(
    change=hnp.arrays("float64", 4, elements=st.floats(-0.5, 0.5)),
    epsilon=st.floats(0.05, 0.45),
)
def test_l2_projection_is_the_nearest_point_when_the_pixel_range_is_slack(change, epsilon):
    centre = np.full(4, 0.5)
    target = centre + change
    found = projected([target], [centre], "l2", epsilon)[0]
    # p is the nearest point of a convex set exactly if (v - p).(z - p) <= 0 for all z in it;
    # over the ball the largest such product is epsilon |v - p| - (v - p).(p - c).
    residual = target - found
    worst = epsilon * np.linalg.norm(residual) - residual @ (found - centre)
    assert worst <= 1e-6
    assert np.linalg.norm(found - centre) <= epsilon + 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_projection_treats_each_image_on_its_own(norm):
    rng = np.random.default_rng(0)
    x, x_adv = rng.random((4, 3, 3, 2)), rng.random((4, 3, 3, 2))
    together = projected(x_adv, x, norm, 0.3)
    for i in range(4):
        alone = projected(x_adv[i : i + 1], x[i : i + 1], norm, 0.3)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-7)


def test_steepest_step_by_hand():
    gradient = tf.constant([[3.0, -4.0], [0.0, 0.0], [0.0, 2e-4]])
    assert steepest_step(gradient, "linf").numpy().tolist() == [[1, -1], [0, 0], [0, 1]]
    l2 = steepest_step(gradient, "l2").numpy()
    np.testing.assert_allclose(l2, [[0.6, -0.8], [0, 0], [0, 1]], rtol=1e-6)


def test_the_l2_step_is_whole_however_small_the_gradient():
    gradient = tf.constant([[3e-6, -4e-6], [3e-8, -4e-8], [3e-30, -4e-30], [0.0, 0.0]])
    expected = [[0.6, -0.8], [0.6, -0.8], [0.6, -0.8], [0.0, 0.0]]
    np.testing.assert_allclose(steepest_step(gradient, "l2"), expected, rtol=1e-6)
    # CleverHans's floor of 1e-6 is not felt by the first.
    judge = optimize_linear(gradient, 1.0, 2)
    np.testing.assert_allclose(judge[0], expected[0], rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=30)
@given(gradient=ANYTHING, other=ANYTHING)
def test_no_other_direction_of_unit_norm_grows_faster(norm, gradient, other):
    best = steepest_step(tf.constant(gradient), norm).numpy()
    rival = other / np.maximum(length(other, norm), 1e-9)[:, None]
    gain = np.sum(gradient * best, -1, dtype="float64")
    # Below the floor of 1e-6 the loss is flat to this tolerance anyway.
    assert (gain >= np.sum(gradient * rival, -1) - 1e-5).all()


def starts(n, shape, norm, epsilon, kind="uniform", seed=(3, 4), value=0.5):
    x = tf.fill([n, *shape], value)
    return random_start(x, norm, epsilon, tf.constant(seed), kind).numpy()


@pytest.mark.parametrize("kind", ["uniform", "normal", "stripes", "zero"])
@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=20)
@given(x=PIXELS, epsilon=RADII, seed=st.integers(0, 2**31 - 1))
def test_starts_are_in_ball_and_pixel_range(norm, kind, x, epsilon, seed):
    found = random_start(tf.constant(x), norm, epsilon, tf.constant([seed, 0]), kind).numpy()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (length(found - x, norm) <= epsilon * (1 + 1e-6) + 2e-7).all()
    if kind == "zero":
        assert np.array_equal(found, x)


def test_linf_start_is_uniform_on_each_pixel():
    noise = (starts(4000, (2,), "linf", 0.25) - 0.5) / 0.25
    for pixel in noise.T:
        assert stats.kstest(pixel, stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(*noise.T).statistic) < 0.05  # pixels are independent


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2, 2)])
def test_l2_start_is_uniform_in_the_ball(shape):
    n = int(np.prod(shape))
    change = (starts(4000, shape, "l2", 0.25) - 0.5).reshape(4000, n)
    radius = length(change, "l2") / 0.25
    # In a uniform ball the radius to the n-th power is uniform: E[r] = n / (n + 1).
    assert stats.kstest(radius**n, "uniform").pvalue > 0.01
    assert radius.mean() == pytest.approx(n / (n + 1), abs=4 * radius.std() / np.sqrt(4000))
    assert radius.max() <= 1 + 1e-6
    if n > 1:
        # Archimedes: a coordinate of a uniform direction has t^2 ~ Beta(1/2, (n - 1) / 2).
        along = (change[:, 0] / length(change, "l2")) ** 2
        assert stats.kstest(along, stats.beta(0.5, (n - 1) / 2).cdf).pvalue > 0.01
    centred = np.abs(change.mean(0)) / (change.std(0) / np.sqrt(4000))
    assert (centred < 4).all()


def test_normal_start_has_the_deviation_of_trades():
    noise = (starts(4000, (2,), "linf", 0.25, "normal") - 0.5).ravel() / 0.001
    assert stats.kstest(noise, "norm").pvalue > 0.01
    tight = starts(4000, (2,), "linf", 0.0005, "normal") - 0.5
    assert np.abs(tight).max() <= 0.0005 + 1e-7


@pytest.mark.parametrize("norm", NORMS)
def test_stripes_are_columns_of_one_sign_at_the_border_of_the_ball(norm):
    change = starts(300, (4, 5, 2), norm, 0.25, "stripes") - 0.5
    size = 0.25 if norm == "linf" else 0.25 / np.sqrt(40)
    np.testing.assert_allclose(np.abs(change), size, rtol=1e-5)
    assert (change == change[:, :1]).all()  # the same in all rows of a column
    share = (change[:, 0] > 0).mean(axis=0)  # fair and independent signs, 300 for each column
    assert (abs(share - 0.5) < 4 * 0.5 / np.sqrt(300)).all()
    signs = np.sign(change[:, 0]).reshape(300, 10)
    assert (abs(np.corrcoef(signs.T) - np.eye(10)) < 4 / np.sqrt(300)).all()
    np.testing.assert_allclose(length(change, norm), 0.25, rtol=1e-5)


def test_stripes_of_samples_without_height_are_signs_of_features():
    change = starts(300, (6,), "linf", 0.25, "stripes") - 0.5
    np.testing.assert_allclose(np.abs(change), 0.25, rtol=1e-6)
    assert len(np.unique(change, axis=0)) > 50  # of 64 patterns


@pytest.mark.parametrize("shape", [(6,), (5, 2), (3, 4, 5, 2)])
def test_stripes_in_a_graph_are_those_of_eager_calls(shape):
    graph = tf.function(lambda x: random_start(x, "linf", 0.25, tf.constant([3, 4]), "stripes"))
    np.testing.assert_array_equal(
        graph(tf.fill([7, *shape], 0.5)), starts(7, shape, "linf", 0.25, "stripes")
    )


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_start_is_a_function_of_its_seed(norm, kind):
    one = starts(4, (5,), norm, 0.1, kind, (7, 0))
    assert np.array_equal(one, starts(4, (5,), norm, 0.1, kind, (7, 0)))
    assert not np.array_equal(one, starts(4, (5,), norm, 0.1, kind, (8, 0)))
    assert len(np.unique(one, axis=0)) == 4  # every image has noise of its own


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match='Unknown start "unifrom"; did you mean "uniform"'):
        starts(1, (2,), "linf", 0.1, "unifrom")


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_batch_stays_empty(norm):
    # tf.distribute hands a replica an empty share of a short last batch.
    assert starts(0, (4, 4, 1), norm, 0.1).shape == (0, 4, 4, 1)
