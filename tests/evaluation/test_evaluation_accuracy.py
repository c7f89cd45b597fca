"""Benign and robust accuracy against brute force."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.evaluation import accuracy, correct_under, robust_accuracy

RNG = np.random.default_rng(5)
X = RNG.random((37, 4)).astype("float32")
KERNEL = RNG.normal(size=(4, 3)).astype("float32")
Y = np.argmax(X @ KERNEL + RNG.normal(size=(37, 3)) * 0.2, 1)
EPSILON = 0.05


def linear_net(last=None):
    net = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(3, use_bias=False, activation=last)]
    )
    net.set_weights([KERNEL])
    return net


def forms():
    pairs = tf.data.Dataset.from_tensor_slices((X, Y))
    return {
        "arrays": (X, Y),
        "one_hot": (X, np.eye(3)[Y]),
        "column": (X.astype("float64"), Y[:, None]),
        "dataset": pairs.batch(8),
        "unknown_length": pairs.batch(5).filter(lambda x, y: True),
    }


def robust_by_hand():
    """Return what is correct on all corners of the ball: the worst case of a linear network."""
    corners = [np.array(signs) for signs in itertools.product((-1, 1), repeat=4)]
    robust = np.ones(len(X), bool)
    for corner in corners:
        robust &= np.argmax(np.clip(X + EPSILON * corner, 0, 1) @ KERNEL, 1) == Y
    return robust


@pytest.mark.parametrize("form", ["arrays", "one_hot", "column", "dataset", "unknown_length"])
def test_accuracy_equals_brute_force_for_every_form_of_data(form):
    correct = np.argmax(X @ KERNEL, 1) == Y
    assert 0.5 < correct.mean() < 1
    net, data = linear_net(), forms()[form]
    # 37 = 4 * 8 + 5: the last batch is short.
    assert np.array_equal(correct_under(net, data, batch_size=8), correct)
    assert accuracy(net, data, batch_size=8) == correct.mean()
    assert accuracy(net, data) == correct.mean()


@pytest.mark.parametrize(
    "form", ["arrays", pytest.param("unknown_length", marks=pytest.mark.slow(seconds=10))]
)
def test_robust_accuracy_of_a_linear_network_by_corners(form):
    robust = robust_by_hand()
    correct = np.argmax(X @ KERNEL, 1) == Y
    assert 0.2 < robust.mean() < correct.mean() - 0.05
    # Each wrong class has a worst corner; the margin loss finds that of the nearest class.
    spec = f"pgd:epsilon={EPSILON},steps=10,restarts=3,loss=margin"
    net, data = linear_net(), forms()[form]
    assert np.array_equal(correct_under(net, data, spec, batch_size=8) & correct, robust)
    assert robust_accuracy(net, data, spec, batch_size=8) == robust.mean()
    assert robust_accuracy(net, data, "fgsm:epsilon=0.0") == correct.mean()
    assert robust_accuracy(net, data, None) == correct.mean()


def test_attacks_that_correct_a_prediction_do_not_count():
    # A sample that is wrong without the attack is never robust.
    def helper(model, x, y, seed=0):
        return tf.one_hot(tf.gather([1, 2, 0], y), 4)

    net = linear_net()
    net.set_weights([2 * np.eye(4, 3)[:, [1, 2, 0]]])  # logits 2 (x2, x3, x1)
    x = np.eye(4, dtype="float32")[:3]  # predicted 2, 0, 1
    y = np.array([0, 2, 1])
    assert correct_under(net, (x, y)).tolist() == [False, False, True]
    assert correct_under(net, (x, y), helper).tolist() == [False, False, True]
    assert robust_accuracy(net, (x, y), helper) == pytest.approx(1 / 3)


def test_each_batch_has_another_seed_and_results_repeat():
    seen = []

    def attack(model, x, y, seed=0):
        seen.append((tuple(np.array(seed)), len(x), y.dtype))
        return x

    robust_accuracy(linear_net(), (X, Y), attack, seed=10, batch_size=16)
    assert seen == [((10, i), size, tf.int32) for i, size in enumerate((16, 16, 5))]
    spec = "pgd:epsilon=0.1,steps=1,step_size=0.01"
    one = correct_under(linear_net(), (X, Y), spec, seed=1)
    assert np.array_equal(one, correct_under(linear_net(), (X, Y), spec, seed=1))


def test_masked_robust_and_subclassed_models_have_equal_results():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = linear_net()

        def call(self, x, training=None):
            return self.inner(x, training=training)

    spec = f"pgd:epsilon={EPSILON},steps=5"
    expected = correct_under(linear_net(), (X, Y), spec)
    masked = hydra_tf.mask_model(linear_net())
    for model in (masked, hydra_tf.RobustModel(linear_net(), "natural"), Subclassed()):
        assert np.array_equal(correct_under(model, (X, Y), spec), expected)


def test_model_with_an_attribute_net_is_not_unwrapped():
    inner = linear_net()
    whole = keras.Sequential([inner, keras.layers.Rescaling(-1.0)])
    whole.build((None, 4))
    whole.net = inner
    correct = np.argmin(X @ KERNEL, 1) == Y
    assert np.array_equal(correct_under(whole, (X, Y)), correct)


def test_inference_mode_and_nan_logits():
    net = keras.Sequential([keras.Input([4]), keras.layers.Dropout(0.9), linear_net()])
    assert accuracy(net, (X, Y)) == (np.argmax(X @ KERNEL, 1) == Y).mean()
    # argmax of NaN is class 0, which must not count as correct.
    net = linear_net()
    net.set_weights([np.full((4, 3), np.nan)])
    assert accuracy(net, (X, np.zeros(37, int))) == 0
    assert robust_accuracy(net, (X, np.zeros(37, int)), "pgd:steps=2") == 0


@pytest.mark.parametrize("last", ["softmax", "sigmoid"])
def test_probabilities_are_refused(last):
    for measure in (accuracy, robust_accuracy):
        with pytest.raises(ValueError, match=r'"dense.*need logits; remove this layer'):
            measure(linear_net(last), (X, Y))


@pytest.mark.parametrize("logarithm", [False, True])
def test_softmax_by_hand_is_refused(logarithm):
    images = keras.Input([4])
    outputs = keras.ops.softmax(linear_net()(images)) * 1.0
    normalised = keras.Model(images, keras.ops.log(outputs) if logarithm else outputs)
    for measure in (accuracy, robust_accuracy):
        with pytest.raises(ValueError, match=r"probabilities .*need logits"):
            measure(normalised, (X, Y))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:0], Y[:0], "empty"),
        (X * 255, Y, r"in \[0, 1\]"),
        (X - 0.5, Y, r"in \[0, 1\]"),
        (X, Y + 1, "from 0 to 2.*span"),
        (X, Y - 1, "from 0 to 2"),
        (X, Y + 0.5, "whole numbers"),
        (X[:, :3], Y, r"images of shape \(4,\), but the data have images of shape \(3,\)"),
        (X, np.full((37, 3), 1 / 3), "one-hot"),
    ],
)
def test_bad_data_are_refused_with_or_without_an_attack(x, y, message):
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    for data in ((x, y), dataset):
        with pytest.raises(ValueError, match=message):
            accuracy(linear_net(), data)
        with pytest.raises(ValueError, match=message):
            robust_accuracy(linear_net(), data, "fgsm")


def test_malformed_data_are_refused():
    pairs = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    with pytest.raises(ValueError, match="There are 37 images but 36 labels"):
        accuracy(linear_net(), (X, Y[1:]))
    for unlabelled in (X, X[:2], (X,)):
        with pytest.raises(TypeError, match=r"pair of arrays, \(images, labels\), not"):
            robust_accuracy(linear_net(), unlabelled)
    with pytest.raises(ValueError, match="repeats endlessly"):
        accuracy(linear_net(), pairs.repeat())
    with pytest.raises(ValueError, match=r"pairs of \(images, labels\)"):
        accuracy(linear_net(), pairs.map(lambda x, y: x))
    with pytest.raises(ValueError, match=r"pairs of \(images, labels\)"):
        accuracy(linear_net(), pairs.map(lambda x, y: (x, y, y)))
    with pytest.raises(ValueError, match='Unknown attack "pdg"'):
        robust_accuracy(linear_net(), (X, Y), "pdg")


def test_the_progress_bar_shows_the_accuracy_so_far(capsys):
    expected = accuracy(linear_net(), (X, Y), batch_size=8, verbose=1)
    shown = capsys.readouterr().out
    assert "5/5" in shown
    assert f"accuracy: {expected:.4f}" in shown
    accuracy(linear_net(), (X, Y), verbose=0)
    assert capsys.readouterr().out == ""


def test_pixels_outside_by_rounding_count_as_clipped_ones():
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 4)).astype("float32").round(), rng.integers(0, 3, 20)
    rounded = np.where(x == 1, np.float32(1.00000024), np.float32(-1e-7))
    net = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    pgd = hydra_tf.attacks.build("pgd:epsilon=0.2,steps=3")
    measures = {
        "accuracy": lambda x: hydra_tf.evaluation.accuracy(net, (x, y)),
        "robust": lambda x: hydra_tf.evaluation.robust_accuracy(net, (x, y), pgd),
        "verified": lambda x: hydra_tf.evaluation.verified_accuracy(net, (x, y), 0.01),
        "certify": lambda x: hydra_tf.evaluation.certify(net, x, n0=5, n=50)[1],
        "predict": lambda x: hydra_tf.evaluation.predict(net, x, n=50),
        "attack": lambda x: pgd(net, x, y),
        "margins": lambda x: hydra_tf.bounds.margin_lower_bound(net, x, y, 0.1),
    }
    for name, measure in measures.items():
        np.testing.assert_array_equal(measure(rounded), measure(x), err_msg=name)
    assert pgd(net, rounded, y).numpy().max() <= 1
