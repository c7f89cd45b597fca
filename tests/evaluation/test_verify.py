"""Verified accuracy against networks whose worst case is known."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.evaluation import robust_accuracy, verified_accuracy, verified_under

RNG = np.random.default_rng(11)
X = RNG.random((43, 4)).astype("float32")
KERNEL = RNG.normal(size=(4, 3)).astype("float32")
Y = np.argmax(X @ KERNEL + RNG.normal(size=(43, 3)) * 0.2, 1)
EPSILON = 0.06


def linear_net(last=None):
    net = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(3, use_bias=False, activation=last)]
    )
    net.set_weights([KERNEL])
    return net


def verified_by_hand(epsilon=EPSILON):
    """Return what is correct on all corners of the box: the worst case of a linear network."""
    verified = np.ones(len(X), bool)
    for signs in itertools.product((-1, 1), repeat=4):
        logits = np.clip(X + epsilon * np.array(signs), 0, 1) @ KERNEL
        verified &= np.argmax(logits, 1) == Y
    return verified


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_verification_of_a_linear_network_is_exact(method):
    net, verified = linear_net(), verified_by_hand()
    assert 0.2 < verified.mean() < (np.argmax(X @ KERNEL, 1) == Y).mean()
    assert np.array_equal(verified_under(net, (X, Y), EPSILON, method), verified)
    data = tf.data.Dataset.from_tensor_slices((X, np.eye(3)[Y])).batch(10)  # a short last batch
    assert np.array_equal(verified_under(net, data, EPSILON, method), verified)
    assert verified_accuracy(net, (X, Y), EPSILON, method) == verified.mean()


def test_verified_accuracy_is_at_most_robust_accuracy():
    he = keras.initializers.HeNormal
    net = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(16, activation="relu", kernel_initializer=he(0)),
            keras.layers.Dense(3, kernel_initializer=he(1)),
        ]
    )
    y = np.argmax(net(X), 1)
    model = hydra_tf.RobustModel(net, "natural")
    ibp, crown = [verified_accuracy(model, (X, y), 0.03, method) for method in ("ibp", "crown")]
    attacked = robust_accuracy(model, (X, y), "pgd:epsilon=0.03,steps=20")
    assert 0 < ibp <= crown <= attacked < 1
    assert verified_accuracy(model, (X, y), 0.0, "ibp") == 1.0
    assert verified_accuracy(model, (X, (y + 1) % 3), 0.0, "ibp") == 0.0


def test_nan_weights_verify_nothing():
    net = linear_net()
    net.set_weights([KERNEL * np.nan])
    assert verified_accuracy(net, (X, Y), EPSILON, "ibp") == 0.0


@pytest.mark.parametrize(
    ("epsilon", "message"),
    [
        (8, r"epsilon=8 is larger than the range of pixel values, \[0, 1\]; .* 8/255"),
        (1.001, "epsilon=1.001 is larger"),
        (-0.1, "epsilon must be a finite number of at least 0, not -0.1"),
        (float("nan"), "epsilon must be a finite number"),
        ("8/255", "epsilon must be a number such as 8/255, not '8/255'"),
        (None, "epsilon must be a number such as 8/255, not None"),
        (np.full(2, 0.1), "epsilon must be a number such as 8/255, not array"),
    ],
)
def test_bad_radii_are_refused(epsilon, message):
    with pytest.raises((TypeError, ValueError), match=message):
        verified_accuracy(linear_net(), (X, Y), epsilon)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match='Unknown bound "crow"; did you mean "crown"'):
        verified_accuracy(linear_net(), (X, Y), EPSILON, "crow")
    with pytest.raises(ValueError, match="ends in probabilities"):
        verified_accuracy(linear_net("softmax"), (X, Y), EPSILON)
    with pytest.raises(ValueError, match=r"pixel values in \[0, 1\]"):
        verified_accuracy(linear_net(), (255 * X, Y), EPSILON)
    with pytest.raises(ValueError, match="Labels must be whole numbers from 0 to 2"):
        verified_accuracy(linear_net(), (X, Y + 1), EPSILON)
    empty = tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(5)
    with pytest.raises(ValueError, match="nothing to verify"):
        verified_accuracy(linear_net(), empty, EPSILON)
