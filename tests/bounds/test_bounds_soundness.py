"""No point of a ball has logits outside the bounds, in float32 and to the last bit."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

import hydra_tf
from hydra_tf import attacks, bounds

METHODS = ("ibp", "crown_ibp", "crown", "symbolic", "tightest")
NETS = ("plain", "normed", "residual", "pooled", "masked", "merged", "grouped", "operated")


def points(net, x, y, epsilon, count, seed, ascents=1):
    """Return points of each ball: random ones, corners, and results of PGD for each class."""
    rng = np.random.default_rng(seed)
    directions = rng.uniform(-1, 1, (count, *x.shape))
    corner = rng.random(count) < 0.5
    directions[corner] = np.sign(directions[corner])
    found = np.clip(x + np.float32(epsilon) * directions.astype("float32"), 0, 1)
    classes = net.output_shape[-1]
    if epsilon > 0 and ascents:
        attack = attacks.build("pgd", epsilon=float(epsilon), steps=10, loss="margin")
        wrong = (y + np.arange(classes)[:, None]) % classes
        tiled = np.broadcast_to(x, (classes, *x.shape)).reshape(-1, *x.shape[1:])
        for i in range(ascents):
            ends = attack(net, tiled, wrong.ravel(), seed=seed + i).numpy()
            found[i * classes : (i + 1) * classes] = ends.reshape(-1, *x.shape)
    return found


def smallest_slack(net, x, y, epsilon, methods, count, seed=0, ascents=1, **options):
    """Return the smallest distance of logits and margins to their bounds; negative: outside."""
    inside = points(net, x, y, epsilon, count, seed, ascents)
    flat = inside.reshape(-1, *x.shape[1:])
    slack = []
    # In batches of several sizes: the order of summation may differ.
    for size in (len(flat), 7):
        logits = np.concatenate([net(flat[i : i + size]) for i in range(0, len(flat), size)[:40]])
        samples = np.arange(len(logits)) % len(x)
        margins = logits[np.arange(len(logits)), y[samples]][:, None] - logits
        for method in methods:
            low = bounds.margin_lower_bound(net, x, y, epsilon, method, **options).numpy()
            slack.append((margins - low[samples]).min())
        for method in methods[:1]:  # bounds on logits use the same code
            box = bounds.bound(net, x, epsilon, method, **options)
            slack.append((logits - box.lower.numpy()[samples]).min())
            slack.append((box.upper.numpy()[samples] - logits).min())
    return min(slack)


LARGER_NETS = ("grouped", "operated", "residual")
# Sequential networks are covered by the contract of bounds.
SLOW_NETS = [
    pytest.param(name, marks=pytest.mark.slow(seconds=20))
    for name in ("masked", "residual", "operated")
]


@pytest.mark.parametrize("name", ["merged", *SLOW_NETS])
def test_every_point_is_inside(build_net, batch, name):
    net, (x, y) = build_net(name), batch
    methods = ("crown", "symbolic", "crown_ibp", "ibp")
    for epsilon in (2 / 255, 0.3):
        assert smallest_slack(net, x, y, epsilon, methods, 256) >= 0


@pytest.mark.parametrize(
    "name",
    ["plain", "merged"]
    + [pytest.param(name, marks=pytest.mark.slow(seconds=15)) for name in ("normed", "residual")],
)
def test_rounding_is_accounted_for(build_net, batch, name):
    net, (x, y) = build_net(name), batch
    methods = ("ibp", "crown")
    # In balls of (almost) one point, only rounding errors can be outside the bounds.
    for epsilon in (0.0, 1e-7):
        assert smallest_slack(net, x, y, epsilon, methods, 64, ascents=0) >= 0
    # Without accounting for them, some are.
    assert smallest_slack(net, x, y, 0.0, methods, 64, rounding=False) < 0


@pytest.mark.parametrize(
    "name",
    [name for name in NETS if name not in LARGER_NETS]
    + [pytest.param(name, marks=pytest.mark.slow(seconds=10)) for name in LARGER_NETS],
)
def test_the_allowance_for_rounding_is_small(build_net, batch, name):
    net, (x, y) = build_net(name), batch
    for method in ("ibp", "crown_ibp", "crown"):
        exact = bounds.margin_lower_bound(net, x, y, 0.01, method, rounding=False).numpy()
        safe = bounds.margin_lower_bound(net, x, y, 0.01, method).numpy()
        others = exact != 0
        assert (safe[others] < exact[others]).all()
        assert np.abs(safe - exact).max() < 2e-3 * np.abs(exact).max()


@st.composite
def networks(draw):
    """A functional network of up to five layers on 4x4 images, ending in two to four logits."""
    images = keras.Input((4, 4, 2))
    x, zeros = images, {"kernel_initializer": "zeros"}  # all weights are drawn below
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(
            st.sampled_from(["conv", "depthwise", "norm", "relu", "leaky", "max", "mean", "skip"])
        )
        padding = draw(st.sampled_from(["same", "valid"])) if min(x.shape[1:3]) > 1 else "same"
        stride, size = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        if kind == "conv":
            x = layers.Conv2D(3, size, strides=stride, padding=padding, **zeros)(x)
        elif kind == "depthwise":
            x = layers.DepthwiseConv2D(size, padding=padding, depthwise_initializer="zeros")(x)
        elif kind == "norm":
            x = layers.BatchNormalization()(x)
        elif kind == "relu":
            x = layers.ReLU()(x)
        elif kind == "leaky":
            x = layers.LeakyReLU(negative_slope=draw(st.sampled_from([0.0, 0.3, 1.0])))(x)
        elif kind == "max":
            x = layers.MaxPooling2D(size, strides=stride, padding=padding)(x)
        elif kind == "mean":
            x = layers.AveragePooling2D(size, strides=stride, padding=padding)(x)
        else:
            y = layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu", **zeros)(x)
            x = draw(st.sampled_from([layers.Add, layers.Subtract]))()([x, y])
    x = layers.Dense(draw(st.integers(2, 4)), **zeros)(layers.Flatten()(x))
    net = keras.Model(images, x)
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    for weight in net.weights:
        positive = weight.name in ("gamma", "moving_variance")
        low, high = (0.2, 2.0) if positive else (-1.0, 1.0)
        weight.assign(rng.uniform(low, high, weight.shape))
    return net


def check_any_network(net, method, epsilon, seed, ascents):
    x = np.random.default_rng(seed).random((2, 4, 4, 2)).astype("float32")
    y = np.arange(2)
    assert smallest_slack(net, x, y, epsilon, [method], 64, seed, ascents) >= 0


ANY = {
    "net": networks(),
    "method": st.sampled_from(METHODS[:-1]),
    "epsilon": st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    "seed": st.integers(0, 2**20),
}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.slow(seconds=300)
@settings(deadline=None, max_examples=150, suppress_health_check=QUIET)
@given(**ANY)
def test_many_architectures(net, method, epsilon, seed):
    check_any_network(net, method, epsilon, seed, ascents=1)


@pytest.mark.slow(seconds=300)
def test_a_million_points(build_net, batch, trained):
    tried = 0
    cases = [(build_net(name), *batch) for name in NETS] + [trained]
    for (net, x, y), epsilon in itertools.product(cases, (2 / 255, 0.05, 0.3)):
        count = 80_000 // len(x)
        boxes = [bounds.bound(net, x, epsilon, method) for method in METHODS]
        margins = [bounds.margin_lower_bound(net, x, y, epsilon, method) for method in METHODS]
        boxes = [(box.lower.numpy(), box.upper.numpy()) for box in boxes]
        found = points(net, x, y, epsilon, count, seed=1, ascents=50)
        for images in found.reshape(-1, 500 * len(x), *x.shape[1:]):
            logits = net(images).numpy().reshape(-1, len(x), net.output_shape[-1])
            gaps = logits[:, np.arange(len(x)), y][..., None] - logits
            for (lower, upper), low in zip(boxes, margins, strict=True):
                assert (logits >= lower).all()
                assert (logits <= upper).all()
                assert (gaps >= low.numpy()).all()
            tried += len(images)
    assert tried >= 1_000_000


def test_balls_are_clipped_to_the_pixel_range():
    # One pixel, f = (x, 0): at x = 0 the ball is [0, 0.25], with clip it is not [-0.25, 0.25].
    net = keras.Sequential([keras.Input([1]), layers.Dense(2)])
    net.set_weights([np.array([[1.0, 0.0]]), np.zeros(2)])
    x = np.array([[0.0], [1.0], [0.5]], "float32")
    box = bounds.bound(net, x, 0.25, rounding=False)
    assert box.lower[:, 0].numpy().tolist() == [0.0, 0.75, 0.25]
    assert box.upper[:, 0].numpy().tolist() == [0.25, 1.0, 0.75]
    box = bounds.bound(net, x, 0.25, rounding=False, clip=None)
    assert box.lower[:, 0].numpy().tolist() == [-0.25, 0.75, 0.25]
    box = bounds.bound(net, 8 * x, 2.0, rounding=False, clip=(0, 8))
    assert box.upper[:, 0].numpy().tolist() == [2.0, 8.0, 6.0]


def test_overflow_is_not_verified():
    net = keras.Sequential([keras.Input([2]), layers.Dense(3, activation="relu"), layers.Dense(2)])
    net.set_weights([np.full((2, 3), 1e30), np.zeros(3), np.full((3, 2), 1e30), np.zeros(2)])
    for method in METHODS:
        low = bounds.margin_lower_bound(net, [[0.5, 0.5]], [0], 0.1, method).numpy()
        assert low[0, 1] == -np.inf


def test_masked_and_plain_networks_have_the_same_bounds(build_net, batch):
    net, (x, y) = build_net("masked"), batch
    stripped = hydra_tf.strip_masks(net)
    robust = hydra_tf.RobustModel(net, "natural")
    expected = bounds.margin_lower_bound(net, x, y, 0.05, "crown_ibp").numpy()
    for other in (stripped, robust):
        found = bounds.margin_lower_bound(other, x, y, 0.05, "crown_ibp")
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert tf.reduce_any(net(x) != net(1 - x))
