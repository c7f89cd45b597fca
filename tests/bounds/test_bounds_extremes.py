"""Underflow, overflow and subnormal numbers make no false proof."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from benchmarks import soundness
from hydra_tf import bounds
from hydra_tf.bounds import propagation
from hydra_tf.bounds.rules import nodes

METHODS = ("ibp", "crown_ibp", "crown", "symbolic")


@pytest.fixture(autouse=True)
def without_tracing():
    """Compute eagerly, since tracing takes longer than one call on a small network."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def chain(*weights, bias=(0.5, 0.0)):
    """Return a network of one input whose ReLUs have one unit each, with two logits.

    The logits are the bias, plus 0 and the product of the input and all weights.
    """
    hidden = [layers.Dense(1, activation="relu") for _ in weights[:-1]]
    net = keras.Sequential([keras.Input([1]), *hidden, layers.Dense(2)])
    tensors = [array for weight in weights[:-1] for array in ([[weight]], [0])]
    net.set_weights([np.array(w, "f") for w in [*tensors, [[0, weights[-1]]], bias]])
    return net


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "weights",
    [
        (1e38, 1e-19, 1e-19),  # backwards, 1e-19 * 1e-19 underflows
        (1e10, 1e22, 1e-20, 1e-12),
        (1e30, 1e-22, 1e-8),
        (1e38, 1e-40, 1e2),  # a weight that is subnormal
        (1e-40, 1e38, 1e2),
        (1e-20, 1e-20, 1e38, 1e2),  # forwards, an activation underflows
    ],
    ids=str,
)
def test_a_product_of_one_is_not_verified(weights, method):
    # The logits are [0.5, x] for x up to 0.95: class 0 is wrong from x = 0.5 on.
    low = bounds.margin_lower_bound(chain(*weights), [[0.2]], [0], 0.75, method)
    assert low.numpy()[0, 1] < -0.4


@pytest.mark.parametrize("method", METHODS)
def test_moderate_weights_are_still_verified(method):
    # The logits are [0.5, x]: class 0 is right up to x = 0.45.
    for weights in ((1e10, 1e-5, 1e-5), (1e-12, 1e12, 1.0)):
        low = bounds.margin_lower_bound(chain(*weights), [[0.2]], [0], 0.25, method)
        assert low.numpy()[0, 1] > 0.04


@pytest.mark.parametrize("method", METHODS)
def test_a_sum_that_overflows_in_one_order_only_has_no_bound(method):
    # 2e38 + 2e38 - 2e38 is 2e38 or infinite.
    net = keras.Sequential([keras.Input([3]), layers.Dense(2)])
    net.set_weights([np.array([[2e38, 0], [2e38, 0], [-2e38, 0]], "f"), np.zeros(2)])
    box = bounds.bound(net, np.ones((1, 3), "f"), 0.0, method)
    assert box.lower.numpy()[0, 0] == -np.inf
    assert box.upper.numpy()[0, 0] == np.inf


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("variance", "epsilon"), [(0.0, 1e-40), (1e-42, 0.0), (1e-38, 1e-39)])
def test_a_variance_that_may_be_zero_has_no_bound(method, variance, epsilon):
    net = keras.Sequential(
        [keras.Input([1]), layers.BatchNormalization(epsilon=epsilon), layers.Dense(2)]
    )
    net.set_weights([*(np.array([w], "f") for w in (1, 0, 0, variance)), np.eye(1, 2), np.zeros(2)])
    box = bounds.bound(net, np.full((1, 1), 0.5, "f"), 0.1, method)
    assert box.upper.numpy()[0, 0] == np.inf


def test_scale_of_batch_normalisation_may_underflow():
    # The scale 1e-40 / sqrt(1e-4 + 0) = 1e-38 is 0 if 1e-40 is, and x is up to 1e38: 1 or 0.
    net = keras.Sequential(
        [
            keras.Input([1]),
            layers.Dense(1),
            layers.BatchNormalization(epsilon=1e-4),
            layers.Dense(2),
        ]
    )
    kernels = [[1e38]], [0], [1e-40], [0], [0], [0], np.eye(1, 2), [0, 0]
    net.set_weights([np.array(w, "f") for w in kernels])
    for method in METHODS:
        box = bounds.bound(net, np.full((1, 1), 0.5, "f"), 0.5, method)
        assert box.lower.numpy()[0, 0] <= 0
        assert box.upper.numpy()[0, 0] >= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_difference_that_overflows_before_it_is_divided_has_no_bound(method):
    # (1e38 x + 3.4e38) / 1.8e19 would be finite, but the sum is not.
    net = keras.Sequential(
        [
            keras.Input([1]),
            layers.Dense(1),
            layers.Normalization(mean=[-3.4028e38], variance=[3.4e38]),
            layers.Dense(2),
        ]
    )
    kernels = [[1e36]], [0], [[0, 1e-19]], [10, 0]
    weights = iter(kernels)
    for layer in (net.layers[0], net.layers[2]):
        layer.set_weights([np.array(next(weights), "f"), np.array(next(weights), "f")])
    low = bounds.margin_lower_bound(net, [[0.9]], [0], 0.0, method)
    assert low.numpy()[0, 1] == -np.inf


def test_normalisation_is_bounded_closely():
    # Logits (x - 2) / 4 and its negation, for x from 0.4 to 0.6.
    for invert, ends in ((False, (-0.4, -0.35)), (True, (3.6, 4.4))):
        net = keras.Sequential(
            [
                keras.Input([1]),
                layers.Normalization(mean=[2.0], variance=[16.0], invert=invert),
                layers.Dense(2),
            ]
        )
        net.layers[1].set_weights([np.array([[1, -1]], "f"), np.zeros(2)])
        for method in METHODS:
            box = bounds.bound(net, [[0.5]], 0.1, method)
            np.testing.assert_allclose([box.lower[0, 0], box.upper[0, 0]], ends, rtol=1e-4)
            assert box.lower[0, 0] < ends[0]
            assert box.upper[0, 0] > ends[1]


def test_ends_do_not_cross_without_rounding():
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input([8]), layers.Dense(32, activation="relu"), layers.Dense(3)])
    x = np.random.default_rng(0).random((50, 8)).astype("f")
    box = bounds.bound(net, x, 0.0, "tightest", rounding=False)
    assert (box.lower.numpy() <= box.upper.numpy()).all()


def test_the_search_reports_bounds_that_do_not_hold():
    logits = np.array([[1.0, 0.0], [3.0, 1.0]])
    sound = [np.array(side) for side in ([1.0, 0.0], [3.0, 1.0], [0.0, 1.0])]
    assert soundness.violations(logits, 0, *sound) == []
    for side, shift, words in (
        (0, 0.5, "below"), (1, -0.5, "above"), (2, 0.5, "margins"), (0, 9, "above upper bounds"),
    ):  # fmt: skip
        wrong = [array.copy() for array in sound]
        wrong[side][1] += shift
        assert any(words in text for text in soundness.violations(logits, 0, *wrong))
    logits[0, 1] = np.nan
    assert len(soundness.violations(logits, 0, *sound)) == 3


@pytest.mark.parametrize("method", ["crown_ibp", "crown", "symbolic"])
def test_without_the_allowances_there_is_a_false_proof(method, monkeypatch):
    def no_loss(inputs, error):
        return tf.zeros([1], tf.float64)

    monkeypatch.setattr(propagation, "coefficient_underflow", no_loss)
    monkeypatch.setattr(nodes, "limited", tf.identity)
    low = bounds.margin_lower_bound(chain(1e38, 1e-19, 1e-19), [[0.2]], [0], 0.75, method)
    assert low.numpy()[0, 1] > 0


@pytest.mark.slow(seconds=120)
def test_the_search_finds_intervals_without_radii(monkeypatch):
    monkeypatch.setattr(nodes, "limited", tf.zeros_like)
    found = [soundness.try_architecture(seed, 50, 500) for seed in (0, 1)]
    assert any(result.violations for result in found)


@pytest.mark.slow(seconds=120)
def test_generated_networks_with_extreme_weights():
    found = [soundness.try_architecture(seed, 25, 10_000) for seed in range(10_000, 10_004)]
    assert sum(result.networks for result in found) == 100
    assert sum(result.finite for result in found) > 20
    assert [result.violations for result in found] == [[], [], [], []]
