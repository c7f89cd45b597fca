"""FAB: projections on planes against scipy's solvers, and distances of linear models."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

from hydra_tf.attacks.apgd import APGD
from hydra_tf.attacks.fab import FAB, step_to_hyperplane
from hydra_tf.core.randomness import stateless_seed

NORMS = ("linf", "l2")


def plane_step(x, slope, rise, norm):
    as_tensor = (tf.constant([each], tf.float32) for each in (x, slope, rise))
    return step_to_hyperplane(*as_tensor, norm).numpy()[0]


@pytest.mark.parametrize(
    ("norm", "x", "slope", "rise", "expected"),
    [
        # 1 t + 2 t = 0.3
        ("linf", [0.5, 0.5], [1.0, 2.0], 0.3, [0.1, 0.1]),
        ("linf", [0.5, 0.5], [1.0, -2.0], -0.3, [-0.1, 0.1]),
        # The second has room for 0.1 only, which gives 0.2; the first gives the other 0.2.
        ("linf", [0.5, 0.9], [1.0, 2.0], 0.4, [0.2, 0.1]),
        # Along the slope: (3, 4) / 25 per unit.
        ("l2", [0.5, 0.5], [3.0, 4.0], 1.0, [0.12, 0.16]),
        ("l2", [0.5, 0.9], [3.0, 4.0], 1.0, [0.2, 0.1]),
        # All the room there is gives 0.5 + 0.2.
        ("linf", [0.5, 0.9], [1.0, 2.0], 5.0, [0.5, 0.1]),
        ("l2", [0.5, 0.9], [1.0, 2.0], 5.0, [0.5, 0.1]),
        # Without a slope there is nowhere to go.
        ("linf", [0.5, 0.9], [0.0, 0.0], 1.0, [0.0, 0.0]),
        ("l2", [0.5, 0.9], [0.0, 0.0], 1.0, [0.0, 0.0]),
        # No length of a slope is too short or too long.
        ("l2", [0.5, 0.5], [3e-30, 4e-30], 1e-30, [0.12, 0.16]),
        ("l2", [0.5, 0.5], [3e30, 4e30], 1e30, [0.12, 0.16]),
        ("l2", [0.5, 0.5], [1.0, 1e-15], 9.0, [0.5, 0.5]),
    ],
)
def test_steps_to_a_plane_by_hand(norm, x, slope, rise, expected):
    np.testing.assert_allclose(plane_step(x, slope, rise, norm), expected, atol=1e-6)


def scipys(x, slope, rise, norm):
    """The smallest change by a general solver, or None when no change rises so much."""
    bounds = list(zip(-x, 1 - x, strict=True))
    if norm == "l2":
        goal = {"type": "eq", "fun": lambda d: d @ slope - rise, "jac": lambda d: slope}
        found = optimize.minimize(
            lambda d: d @ d, 0 * x, jac=lambda d: 2 * d, bounds=bounds, constraints=[goal],
            options={"ftol": 1e-12, "maxiter": 500},
        )  # fmt: skip
        return np.linalg.norm(found.x)
    n = len(x)
    both = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
    return optimize.linprog(
        [0] * n + [1], A_ub=both, b_ub=np.zeros(2 * n), A_eq=[[*slope, 0]], b_eq=[rise],
        bounds=[*bounds, (0, None)],
    ).fun  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=30)
@given(
    x=hnp.arrays("float64", 5, elements=st.integers(0, 20).map(lambda n: n / 20)),
    slope=hnp.arrays("float64", 5, elements=st.integers(-6, 6)),
    share=st.floats(-0.95, 0.95),
)
def test_steps_to_a_plane_are_as_short_as_scipys(norm, x, slope, share):
    up, down = (np.sum(np.maximum(s * slope * (1 - x), -s * slope * x)) for s in (1, -1))
    rise = share * (up if share > 0 else down)
    step = plane_step(x, slope, rise, norm)
    assert (step >= -x - 1e-6).all()
    assert (step <= 1 - x + 1e-6).all()
    assert step @ slope == pytest.approx(rise, abs=1e-4)
    length = np.abs(step).max() if norm == "linf" else np.linalg.norm(step)
    assert length == pytest.approx(scipys(x, slope, rise, norm), abs=2e-4)


def line(weights, bias):
    """Two logits, 0 and weights . x + bias."""
    weights = tf.reshape(tf.constant(weights, tf.float32), [-1, 1])

    def predict(x):
        score = x @ weights + bias
        return tf.concat([tf.zeros_like(score), score], axis=1)

    return predict


@pytest.mark.parametrize(
    ("norm", "factor"), [("linf", 1.0), ("linf", 1e-12), ("l2", 1.0), ("l2", 1e12)]
)
def test_it_finds_the_distance_of_a_linear_model_at_any_scale(norm, factor):
    rng = np.random.default_rng(3)
    weights, x = rng.normal(size=8), rng.uniform(0.4, 0.6, (5, 8)).astype("float32")
    bias = -0.5 * weights.sum() - 0.4  # class 0 in the middle, pixel range far away
    y = tf.zeros(5, tf.int32)
    dual = np.abs(weights).sum() if norm == "linf" else np.linalg.norm(weights)
    distance = -(x @ weights + bias) / dual
    assert (distance > 0).all()
    predict = line(factor * weights, factor * bias)
    attack = FAB(norm=norm, epsilon=1.0, steps=15)
    change = attack.perturb(predict, tf.constant(x), y, stateless_seed(0)).numpy() - x
    length = np.abs(change).max(1) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert (length > distance).all()
    assert (length < 1.02 * distance).all()


def test_what_no_class_breaks_comes_back_as_it_is():
    x = tf.constant([[0.5, 0.5], [0.5, 0.8]])
    y = tf.constant([0, 0])
    # 0.2 away in the Linf norm, 0.05 for the second.
    predict = line([1.0, 1.0], -1.4)
    found = FAB(epsilon=0.1, steps=10).perturb(predict, x, y, stateless_seed(0)).numpy()
    assert np.array_equal(found[0], x[0])
    assert 1.4 < found[1].sum() < 1.42


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize("norm", NORMS)
def test_it_breaks_what_targeted_apgd_breaks(robust, norm):
    net, x, y = robust
    x, y = x[:100], y[:100]
    epsilon = {"linf": 0.1, "l2": 0.5}[norm]
    still_correct = [
        (np.argmax(net(attack(net, x, y), training=False), -1) == y).sum()
        for attack in (
            FAB(norm, epsilon, steps=30, targets=3),
            APGD(norm, epsilon, steps=30, loss="dlr", targets=3),
        )
    ]
    assert abs(still_correct[0] - still_correct[1]) <= len(y) / 100
    assert 0.5 < still_correct[0] / len(y) < 0.9


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"steps": -1}, "steps must be at least 0, not -1"),
        ({"targets": 0}, "targets must be at least 1, not 0"),
    ],
)
def test_bad_parameters_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        FAB(**kwargs)
