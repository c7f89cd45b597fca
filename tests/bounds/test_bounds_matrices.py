"""Bounds against dense matrices in NumPy, and single relaxations computed by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from hydra_tf import bounds


@pytest.fixture(scope="module")
def two_layers():
    """f = W2 relu(W1 x) with x in [0.4, 0.6] x [0.3, 0.5] for x = (0.5, 0.4), epsilon = 0.1.

    z1 = x1 - x2 in [-0.1, 0.3] and z2 = x1 + x2 - 0.5 in [0.2, 0.6];
    f0 = relu(z1) + relu(z2), f1 = 2 relu(z1) - relu(z2).
    """
    net = keras.Sequential([keras.Input([2]), layers.Dense(2, "relu"), layers.Dense(2)])
    net.set_weights(
        [
            np.array([[1.0, 1.0], [-1.0, 1.0]]),
            np.array([0.0, -0.5]),
            np.array([[1.0, 2.0], [1.0, -1.0]]),
            np.zeros(2),
        ]
    )
    return net, np.array([[0.5, 0.4]], "float32")


# relu(z1) lies above s z1, with s = 1 for CROWN (0.3 > 0.1) and s = 0.75 for parallel lines, and
# below 0.75 z1 + 0.075; relu(z2) = z2. For z1, z2 as functions of x:
# CROWN: f0 >= z1 + z2 = 2 x1 - 0.5 >= 0.3, f0 <= 0.75 z1 + 0.075 + z2 = 1.75 x1 + 0.25 x2
# - 0.425 <= 0.75; f1 >= 2 z1 - z2 = x1 - 3 x2 + 0.5 >= -0.6, f1 <= 1.5 z1 + 0.15 - z2
# = 0.5 x1 - 2.5 x2 + 0.65 <= 0.2.
# f0 - f1 = -relu(z1) + 2 relu(z2) >= -0.75 z1 - 0.075 + 2 z2 = 1.25 x1 + 2.75 x2 - 1.075 >= 0.25;
# f1 - f0 >= z1 - 2 z2 = -x1 - 3 x2 + 1 >= -1.1.
# Symbolic: f0 >= 1.75 x1 + 0.25 x2 - 0.5 >= 0.275; f1 >= 0.5 x1 - 2.5 x2 + 0.5 >= -0.55;
# f1 - f0 >= 0.75 z1 - 2 z2 = -1.25 x1 - 2.75 x2 + 1 >= -1.125.
# Intervals: relu(z1) in [0, 0.3], relu(z2) in [0.2, 0.6].
BY_HAND = {
    "ibp": ([0.2, -0.6], [0.9, 0.4], 0.1, -1.2),
    "crown": ([0.3, -0.6], [0.75, 0.2], 0.25, -1.1),
    "crown_ibp": ([0.3, -0.6], [0.75, 0.2], 0.25, -1.1),
    "symbolic": ([0.275, -0.55], [0.75, 0.2], 0.25, -1.125),
    "tightest": ([0.3, -0.55], [0.75, 0.2], 0.25, -1.1),
}


@pytest.mark.parametrize("method", BY_HAND)
def test_two_layers_by_hand(two_layers, method):
    net, x = two_layers
    lower, upper, of_first, of_second = BY_HAND[method]
    box = bounds.bound(net, x, 0.1, method, rounding=False)
    np.testing.assert_allclose(box.lower, [lower], rtol=0, atol=1e-6)
    np.testing.assert_allclose(box.upper, [upper], rtol=0, atol=1e-6)
    twice = np.repeat(x, 2, axis=0)
    margins = bounds.margin_lower_bound(net, twice, [0, 1], 0.1, method, rounding=False)
    np.testing.assert_allclose(margins, [[0, of_first], [of_second, 0]], rtol=0, atol=1e-6)


class Oracle:
    """Every layer of a Sequential model as a matrix, computed by probing it with unit vectors.

    It uses NumPy and float64, and shares no code with the library.
    """

    def __init__(self, net, x, epsilon, method):
        self.method, self.steps = method, []
        low, high = np.clip(x - epsilon, 0, 1).ravel(), np.clip(x + epsilon, 0, 1).ravel()
        self.box = self.low, self.high = low.astype("float64"), high.astype("float64")
        shape = net.input_shape[1:]
        for layer in net.layers:
            size = int(np.prod(shape))
            nonlinear = isinstance(layer, layers.ReLU | layers.LeakyReLU | layers.MaxPooling2D)
            if nonlinear and method in ("crown", "symbolic"):
                low, high = self.backwards(np.eye(size)), -self.backwards(-np.eye(size))
                self.low, self.high = low, high
            if isinstance(layer, layers.ReLU | layers.LeakyReLU):
                slope = layer.negative_slope or 0.0
                self.steps.append(("relu", self.low, self.high, slope))
                self.low, self.high = (np.maximum(z, slope * z) for z in (self.low, self.high))
                continue
            probes = np.concatenate([np.zeros((1, size)), np.eye(size)]).astype("float32")
            outputs = np.array(layer(probes.reshape(-1, *shape)), "float64")
            shape = outputs.shape[1:]
            outputs = outputs.reshape(size + 1, -1)
            if nonlinear:
                self.pool(outputs[1:].T > 0)
                continue
            bias, matrix = outputs[0], (outputs[1:] - outputs[0]).T
            self.steps.append(("affine", matrix, bias))
            middle, radius = (self.low + self.high) / 2, (self.high - self.low) / 2
            middle, radius = matrix @ middle + bias, np.abs(matrix) @ radius
            self.low, self.high = middle - radius, middle + radius

    def pool(self, windows):
        chosen, ceiling, lows, highs = [], [], [], []
        for window in windows:
            inside = np.flatnonzero(window)
            best = inside[np.argmax(self.low[inside])]
            others = inside[inside != best]
            decided = len(others) == 0 or self.low[best] >= self.high[others].max()
            chosen.append(best)
            ceiling.append(np.nan if decided else self.high[inside].max())
            lows.append(self.low[inside].max())
            highs.append(self.high[inside].max())
        self.steps.append(("max", np.array(chosen), np.array(ceiling), len(self.low)))
        self.low, self.high = np.array(lows), np.array(highs)

    def backwards(self, rows):
        constant = np.zeros(len(rows))
        for kind, *values in reversed(self.steps):
            positive, negative = np.maximum(rows, 0), np.minimum(rows, 0)
            if kind == "affine":
                constant += rows @ values[1]
                rows = rows @ values[0]
            elif kind == "relu":
                low, high, left = values
                chord = np.where(low >= 0, 1.0, left)
                unstable = (low < 0) & (high > 0)
                chord[unstable] = ((high - left * low) / (high - low))[unstable]
                below = np.where(high > -low, 1.0, left) if self.method != "symbolic" else chord
                below = np.where(unstable, below, chord)
                constant += negative @ np.where(unstable, high - chord * high, 0)
                rows = positive * below + negative * chord
            else:
                chosen, ceiling, size = values
                decided = np.isnan(ceiling)
                constant += negative @ np.where(decided, 0, ceiling)
                selected, rows = positive + negative * decided, np.zeros((len(rows), size))
                for column, position in enumerate(chosen):
                    rows[:, position] += selected[:, column]
        low, high = self.box
        return constant + np.maximum(rows, 0) @ low + np.minimum(rows, 0) @ high

    def margins(self, y):
        rows = np.eye(len(self.low))[y] - np.eye(len(self.low))
        if self.method != "ibp":
            return self.backwards(rows)
        offset = 0
        while self.steps[-1][0] == "affine":  # all affine layers at the end in one
            _, matrix, bias = self.steps.pop()
            rows, offset = rows @ matrix, offset + rows @ bias
        _, low, high, left = self.steps[-1]
        low, high = np.maximum(low, left * low), np.maximum(high, left * high)
        return offset + np.maximum(rows, 0) @ low + np.minimum(rows, 0) @ high


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown", "symbolic"])
def test_equal_to_matrices(method):
    keras.utils.set_random_seed(2)
    net = keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            layers.MaxPooling2D(3, strides=2, padding="same"),
            layers.Conv2D(4, 2, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.25),
            layers.AveragePooling2D(2, strides=1, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(6),
            layers.Dense(4),
        ]
    )
    rng = np.random.default_rng(2)
    for weight in net.weights:
        if weight.name == "bias":
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.3, 1.5, weight.shape))
    x, y = rng.random((3, 6, 6, 2)).astype("float32"), np.array([0, 3, 1])
    found = bounds.margin_lower_bound(net, x, y, 0.05, method, rounding=False)
    for row, image, label in zip(found, x, y, strict=True):
        expected = Oracle(net, image, 0.05, method).margins(label)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=2e-6)


def test_max_pool_with_a_known_maximum_is_exact():
    # f0 = max(x1, x2) and f1 = x1. Where x1 in [0.6, 0.8] is above x2 in [0.1, 0.3] the maximum
    # is x1. Otherwise it is at least x1, whose lower bound is the larger one, and at most 0.6.
    images = keras.Input([2, 1])
    top = layers.Flatten()(layers.MaxPooling1D(2)(images))
    out = layers.Dense(2)(layers.Concatenate()([top, layers.Flatten()(images)]))
    net = keras.Model(images, out)
    net.set_weights([np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.zeros(2)])
    x = np.array([[[0.7], [0.2]], [[0.5], [0.45]]], "float32")
    low = bounds.margin_lower_bound(net, x, [0, 0], 0.1, "crown", rounding=False).numpy()[:, 1]
    np.testing.assert_allclose(low, [0, 0], atol=1e-6)
    low = bounds.margin_lower_bound(net, x, [1, 1], 0.1, "crown", rounding=False).numpy()[:, 0]
    np.testing.assert_allclose(low, [0, -0.2], atol=1e-6)  # x1 - 0.6 >= 0.4 - 0.6


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_dead_and_always_active_rectifiers(sign):
    # All rectifiers on one side of 0: the network is linear in the ball and every bound exact.
    net = keras.Sequential([keras.Input([3]), layers.Dense(5, "relu"), layers.Dense(3)])
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(3, 5)), rng.normal(size=(5, 3))
    net.set_weights([w1, np.full(5, 10 * sign), w2, np.zeros(3)])
    x = np.full((1, 3), 0.5, "float32")
    slopes = (w1 @ w2 if sign > 0 else np.zeros((3, 3))).T
    rows = slopes[0] - slopes
    expected = (net(x)[:, :1] - net(x))[0] - 0.1 * np.abs(rows).sum(1)
    for method in ("crown_ibp", "crown", "symbolic"):
        found = bounds.margin_lower_bound(net, x, [0], 0.1, method, rounding=False)
        np.testing.assert_allclose(found[0], expected, atol=2e-5)


def test_bounds_of_radius_0_are_the_margins(build_net, batch):
    net, (x, y) = build_net("residual"), batch
    logits = net(x).numpy()
    margins = logits[np.arange(4), y][:, None] - logits
    for method in ("ibp", "crown_ibp"):
        found = bounds.margin_lower_bound(net, x, y, 0.0, method, rounding=False)
        np.testing.assert_allclose(found, margins, rtol=1e-4, atol=1e-5)
