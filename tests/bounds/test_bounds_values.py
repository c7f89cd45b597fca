"""Bounds against values by hand, an independent implementation and each other."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import hydra_tf
from hydra_tf import bounds

METHODS = ("ibp", "crown_ibp", "crown", "symbolic")
EXACT = {"rounding": False}


def by_hand():
    """f_0 = relu(x1 + x2) + relu(x1 - x2), f_1 = 0.5 relu(x1 + x2) - relu(x1 - x2) + 0.1."""
    net = keras.Sequential([keras.Input([2]), layers.Dense(2, activation="relu"), layers.Dense(2)])
    first, second = np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, 0.5], [1.0, -1.0]])
    net.set_weights([first, np.zeros(2), second, np.array([0.0, 0.1])])
    return net


# x = (0.5, 0.5), epsilon = 0.1: the hidden values lie in [0.8, 1.2], where ReLU is the identity,
# and in [-0.2, 0.2], where its chord is (h + 0.2) / 2 and its adaptive lower line 0 (not u > -l).
# f_0 - f_1 = 0.5 (x1 + x2) + 2 relu(x1 - x2) - 0.1, so its minimum needs the lower line:
# ibp and both crowns: 0.5 * 0.8 + 0 - 0.1; parallel line (x1 - x2) / 2: 1.5 x1 - 0.5 x2 - 0.1.
# f_1 - f_0 needs the chord: -0.5 (x1 + x2) - (x1 - x2) - 0.2 + 0.1 = -1.5 x1 + 0.5 x2 - 0.1.
@pytest.mark.parametrize(
    ("method", "lower", "other"),
    [
        ("ibp", 0.3, -0.6 - 0.4 + 0.1),
        ("crown_ibp", 0.3, -0.9 + 0.2 - 0.1),
        ("crown", 0.3, -0.9 + 0.2 - 0.1),
        ("symbolic", 0.6 - 0.3 - 0.1, -0.9 + 0.2 - 0.1),
        ("tightest", 0.3, -0.8),
    ],
)
def test_a_network_of_two_layers_by_hand(method, lower, other):
    x = np.full((1, 2), 0.5, "float32")
    for label, value in ((0, lower), (1, other)):
        found = bounds.margin_lower_bound(by_hand(), x, [label], 0.1, method, **EXACT).numpy()
        assert found[0, label] == 0
        assert found[0, 1 - label] == pytest.approx(value, abs=1e-6)


def test_logits_by_hand():
    found = bounds.bound(by_hand(), [[0.5, 0.5]], 0.1, "crown", **EXACT)
    # f_0 <= (x1 + x2) + (x1 - x2 + 0.2) / 2, f_1 <= 0.5 (x1 + x2) - 0 + 0.1,
    # f_1 >= 0.5 (x1 + x2) - (x1 - x2 + 0.2) / 2 + 0.1 = x2.
    np.testing.assert_allclose(found.lower, [[0.8, 0.4]], atol=1e-6)
    np.testing.assert_allclose(found.upper, [[0.9 + 0.3 + 0.1, 0.7]], atol=1e-6)


def conv():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(12, activation="relu"),
            layers.Dense(5),
        ]
    )


def norm():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", use_bias=False),
            layers.BatchNormalization(epsilon=1e-5),
            layers.ReLU(),
            layers.ZeroPadding2D(1),
            layers.Conv2D(6, 3, strides=2),
            layers.BatchNormalization(epsilon=1e-5),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )


def residual():
    images = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(images)
    y = layers.BatchNormalization(epsilon=1e-5)(layers.Conv2D(4, 3, padding="same")(x))
    y = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(images, layers.Dense(5)(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def reference():
    with np.load(pathlib.Path(__file__).with_name("reference.npz")) as file:
        return dict(file)


def assert_close(found, expected):
    """Check equality within 1e-4 of the largest bound of the network."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("make", [conv, norm, residual], ids=lambda make: make.__name__)
def test_equal_to_an_independent_implementation(reference, make, masked):
    name, net = make.__name__, make()
    net.set_weights([reference[k] for k in sorted(reference) if k.startswith(f"{name}_weight")])
    x, y, epsilon = reference["x"], reference["y"], float(reference["epsilon"])
    np.testing.assert_allclose(net(x), reference[f"{name}_logits"], rtol=1e-4, atol=1e-5)
    net = hydra_tf.mask_model(net) if masked else net
    for method in ("ibp", "crown_ibp", "crown"):
        key = f"{name}_{method}"
        found = bounds.bound(net, x, epsilon, method, **EXACT)
        assert_close(found.lower, reference[f"{key}_lower"])
        assert_close(found.upper, reference[f"{key}_upper"])
        margins = bounds.margin_lower_bound(net, x, y, epsilon, method, **EXACT)
        assert_close(margins, reference[f"{key}_margins"])


def test_order_of_methods_on_a_naturally_trained_network(trained):
    net, x, y = trained
    mean = {
        method: bounds.margin_lower_bound(net, x, y, 2 / 255, method, **EXACT).numpy().mean()
        for method in METHODS
    }
    assert mean["crown"] > mean["crown_ibp"] > mean["ibp"]
    assert mean["symbolic"] > mean["ibp"]


def test_tightest_equals_the_best_method(trained):
    net, x, y = trained
    margins = [bounds.margin_lower_bound(net, x, y, 0.02, method).numpy() for method in METHODS]
    best = bounds.margin_lower_bound(net, x, y, 0.02, "tightest").numpy()
    np.testing.assert_array_equal(best, np.max(margins, axis=0))
    assert (np.argmax(margins, axis=0) > 1).any()


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.slow(seconds=8)) if m == "crown" else m for m in METHODS],
)
def test_chunks_do_not_change_bounds(build_net, batch, method):
    net, (x, y) = build_net("residual"), batch
    whole = bounds.margin_lower_bound(net, x, y, 0.05, method, chunk=0, **EXACT).numpy()
    for chunk in (7, None):
        chunked = bounds.margin_lower_bound(net, x, y, 0.05, method, chunk=chunk, **EXACT).numpy()
        np.testing.assert_allclose(chunked, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [*METHODS, pytest.param("tightest", marks=pytest.mark.slow)])
def test_graph_and_eager_bounds_are_equal(build_net, batch, method):
    net, (x, y) = build_net("normed"), batch
    eager = bounds.margin_lower_bound(net, x, y, 0.05, method).numpy()

    @tf.function(input_signature=[tf.TensorSpec([None, 6, 6, 2]), tf.TensorSpec([None], tf.int32)])
    def graph(x, y):
        return bounds.margin_lower_bound(net, x, y, tf.constant(0.05), method)

    found = graph(x, y.astype("int32"))
    np.testing.assert_allclose(found, eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 100])
def test_any_number_of_classes(classes):
    rng = np.random.default_rng(0)
    net = keras.Sequential([keras.Input([3]), layers.Dense(classes)])
    net.set_weights([rng.normal(size=(3, classes)), rng.normal(size=classes)])
    x, y = rng.uniform(0.3, 0.7, (5, 3)), np.arange(5) % classes
    kernel, bias = net.get_weights()
    slopes, shift = kernel.T[y][:, None] - kernel.T[None], bias[y][:, None] - bias[None]
    expected = (slopes * x[:, None]).sum(-1) + shift - 0.1 * np.abs(slopes).sum(-1)
    expected[np.arange(5), y] = 0
    for method in METHODS:
        found = bounds.margin_lower_bound(net, x, y, 0.1, method, **EXACT)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_balls_end_at_the_pixel_range_unless_clip_is_none():
    net = keras.Sequential([keras.Input([1]), layers.Dense(2, use_bias=False)])
    net.set_weights([np.array([[1.0, -1.0]])])
    found = bounds.bound(net, [[0.9]], 0.25, **EXACT)
    np.testing.assert_allclose(found.upper, [[1.0, -0.65]], atol=1e-6)
    found = bounds.bound(net, [[0.9]], 0.25, clip=None, **EXACT)
    np.testing.assert_allclose(found.upper, [[1.15, -0.65]], atol=1e-6)
