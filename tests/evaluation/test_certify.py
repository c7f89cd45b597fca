"""Randomized smoothing against closed forms and SciPy."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import binomtest, kstest, norm

import hydra_tf
from hydra_tf.checks.batches import check_use
from hydra_tf.evaluation import (
    certify,
    certify_dataset,
    predict,
)
from hydra_tf.evaluation.certify import clopper_pearson_lower, gaussian_draws, vote_counter

SIGMA = 0.25
W, B = np.array([0.6, -0.8, 0.0]) * 3, 0.15 * 3  # |w| = 3


def linear_net(w=W, b=B):
    """Logits (0, w.x + b): the smoothed network's radius is |w.x + b| / |w|."""
    net = keras.Sequential([keras.Input([len(w)]), keras.layers.Dense(2)])
    net.set_weights([np.stack([np.zeros_like(w), w], 1), np.array([0.0, b])])
    return net


def distance(x):
    return (x @ W + B) / np.linalg.norm(W)


RNG = np.random.default_rng(4)
X = RNG.random((70, 3)).astype("float32")
Y = (distance(X) > 0).astype(int)
Y[::5] = 1 - Y[::5]


def test_clopper_pearson_by_hand_and_by_scipy():
    # All n of n: P(all | p) = p^n = alpha. None of n: the bound is 0.
    assert clopper_pearson_lower(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100), rel=1e-12)
    assert clopper_pearson_lower(0, 10, 0.05) == 0
    # One of n: 1 - (1 - p)^n = alpha.
    assert clopper_pearson_lower(1, 20, 0.05) == pytest.approx(1 - 0.95 ** (1 / 20), rel=1e-12)
    for n, alpha in ((100, 0.001), (10_000, 0.001), (17, 0.3)):
        counts = np.unique(np.linspace(0, n, 9, dtype=int))
        expected = [
            binomtest(int(k), n, alternative="greater").proportion_ci(1 - alpha, "exact").low
            for k in counts
        ]
        np.testing.assert_allclose(clopper_pearson_lower(counts, n, alpha), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [(28, 28, 1), (3,), (5,)])
def test_draws_depend_on_their_position_and_are_standard_normal(shape):
    whole = gaussian_draws([3, 4], 0, 600, shape).numpy()
    slices = [gaussian_draws([3, 4], first, n, shape) for first, n in ((0, 7), (7, 500), (507, 93))]
    assert np.array_equal(whole, np.concatenate(slices))
    assert kstest(whole.ravel(), norm.cdf).pvalue > 1e-3
    # No draw is repeated, in one stream or in two.
    other = gaussian_draws([3, 5], 0, 600, shape).numpy()
    draws = np.concatenate([whole, other]).reshape(1200, -1)
    assert len(np.unique(draws, axis=0)) == 1200


def test_votes_by_hand():
    noise = SIGMA * gaussian_draws([1, 2], 0, 333, (3,)).numpy()
    ones = (distance(X[:, None] + noise) > 0).sum(1)
    for batch_size in (1, 64, 100_000):
        votes = vote_counter(linear_net(), (3,), SIGMA, batch_size)(X, [1, 2], 333).numpy()
        assert np.array_equal(votes, np.stack([333 - ones, ones], 1))


def test_radii_of_a_linear_network_are_nearly_exact():
    classes, radii = certify(linear_net(), X, SIGMA)
    true = np.abs(distance(X))
    certified = classes >= 0
    assert np.array_equal(classes[certified], (distance(X) > 0)[certified])
    assert (radii <= true).all()
    between = (true > 0.15) & (true < 2 * SIGMA)
    assert between.sum() > 20
    assert (radii[between] > 0.9 * true[between]).all()
    # It abstains near the boundary and nowhere else.
    assert (true[~certified] < 0.02).all() and (~certified).any()
    assert (radii[~certified] == 0).all() and (classes[~certified] == -1).all()


def test_unanimous_draws_certify_the_largest_radius():
    # n draws cannot distinguish a probability above alpha^(1/n) from 1.
    _, radii = certify(linear_net(), X, sigma=0.02)
    far = np.abs(distance(X)) > 0.2
    largest = 0.02 * norm.ppf(0.001 ** (1 / 10_000))
    np.testing.assert_allclose(radii[far], largest, rtol=1e-9)
    assert radii.max() == radii[far][0]


def test_images_on_the_boundary_are_not_certified():
    image = np.array([[0.25, 0.375, 0.5]], "float32")  # 0.6 * 0.25 - 0.8 * 0.375 + 0.15 = 0
    for seed in range(5):
        classes, radii = certify(linear_net(), image, n=1000, seed=seed)
        assert (classes.tolist(), radii.tolist()) == ([-1], [0.0])
        assert predict(linear_net(), image, n=1000, seed=seed).tolist() == [-1]


def test_certificates_are_wrong_with_probability_alpha():
    # The share of too large radii is at most alpha, and near alpha, as the bound is tight.
    x, true = X[:1], abs(distance(X[:1]))[0]
    assert 0.05 < true < 0.4
    options = {"n0": 20, "n": 400, "alpha": 0.2}
    net = linear_net()
    radii = [certify(net, x, SIGMA, seed=seed, **options)[1][0] for seed in range(200)]
    wrong = (np.array(radii) > true).sum()
    assert binomtest(int(wrong), 200, 0.2, alternative="greater").pvalue > 1e-3
    assert wrong > 0.1 * 200


def test_results_repeat_and_do_not_depend_on_the_batch_size():
    expected = certify(linear_net(), X, n=777)
    net = linear_net()
    for options in ({"batch_size": 1}, {"batch_size": 45}, {"batch_size": 100_000}):
        for one, other in zip(expected, certify(net, X, n=777, **options), strict=True):
            assert np.array_equal(one, other)
    alone = [certify(net, X[i : i + 1], n=777)[1][0] for i in range(40)]
    assert np.array_equal(alone, expected[1][:40])
    assert not np.array_equal(certify(linear_net(), X, n=777, seed=1)[1], expected[1])
    model = hydra_tf.RobustModel(linear_net(), "natural")
    assert np.array_equal(certify(model, X, n=777)[1], expected[1])


@pytest.mark.parametrize("batch_size", [1, 5, 40])
def test_model_is_called_with_at_most_batch_size_images(batch_size, tmp_path):
    seen = []

    class Measured(keras.Model):
        def call(self, x):
            tf.py_function(lambda n: seen.append(int(n)), [tf.shape(x)[0]], [])
            return tf.concat([x[:, :1], 2 - x[:, :1]], 1)

    model = Measured()
    check_use(model, X[:9], Y[:9])  # it calls the model, but only once
    seen.clear()
    certify(model, X[:9], n0=10, n=20, batch_size=batch_size)
    certify_dataset(model, (X[:9], Y[:9]), tmp_path / "a", n0=10, n=20, batch_size=batch_size)
    assert batch_size / 2 < max(seen) <= batch_size


def test_noise_may_differ_between_images():
    same = np.repeat(X[:1], 12, axis=0)
    shared = certify(linear_net(), same, n=500)[1]
    assert len(set(shared)) == 1
    separate = certify(linear_net(), same, n=500, shared_noise=False)[1]
    assert len(set(separate)) > 6
    assert np.array_equal(certify(linear_net(), same, n=500, shared_noise=False)[1], separate)
    assert np.abs(separate - shared[0]).max() < 0.1
    assert len(set(predict(linear_net(), same, n=500, shared_noise=False))) == 1


def test_selection_and_estimation_use_different_noise(monkeypatch):
    seen = []

    def spy(seed, first, count, shape):
        seen.append(seed)
        return gaussian_draws(seed, first, count, shape)

    module = importlib.import_module("hydra_tf.evaluation.certify")  # not the function
    monkeypatch.setattr(module, "gaussian_draws", spy)
    tf.config.run_functions_eagerly(True)
    try:
        certify(linear_net(), X[:2], n0=5, n=20)
        predict(linear_net(), X[:2], n=20)
    finally:
        tf.config.run_functions_eagerly(False)
    assert len({tuple(np.array(seed).tolist()) for seed in seen}) == 3


def test_predict_is_the_binomial_test_of_the_top_two_classes():
    predicted = predict(linear_net(), X, SIGMA, n=100, alpha=0.05)
    ones = [
        (distance(x + SIGMA * gaussian_draws(seed, 0, 100, (3,)).numpy()) > 0).sum()
        for x in X
        for seed in [tf.random.fold_in(tf.constant([0, 0]), 2)]
    ]
    # For 100 draws the two-sided test at 5% requires more than 60 of one class.
    assert binomtest(60, 100).pvalue > 0.05 > binomtest(61, 100).pvalue
    expected = [1 if k > 60 else 0 if k < 40 else -1 for k in ones]
    assert predicted.tolist() == expected
    assert set(expected) == {-1, 0, 1}


def test_changes_in_place_are_certified():
    scaled = keras.layers.Normalization()
    net = keras.Sequential([keras.Input([1]), scaled, keras.layers.Dense(2, use_bias=False)])
    scaled.adapt(np.array([[-1.0], [1.0]]))
    net.layers[-1].set_weights([np.array([[0.0, 1.0]])])
    assert certify(net, np.array([[0.9]]), n=1000)[0].tolist() == [1]
    scaled.adapt(np.array([[1.0], [3.0]]))  # x - 2 is below 0
    assert certify(net, np.array([[0.9]]), n=1000)[0].tolist() == [0]


def test_nan_logits_have_no_vote():
    inputs = keras.Input([1])
    logits = keras.layers.Dense(2)(inputs)
    root = keras.ops.sqrt(inputs - 0.5)  # NaN on the left half of the noise
    net = keras.Model(inputs, logits + 0 * root)
    net.set_weights([np.array([[0.0, 1.0]]), np.array([0.0, 0.0])])
    x = np.array([[0.5], [1.0]], "float32")
    noise = SIGMA * gaussian_draws([0, 0], 0, 400, (1,)).numpy()
    votes = vote_counter(net, (1,), SIGMA, 64)(x, [0, 0], 400).numpy()
    assert votes.tolist() == [[0, int((noise > 0).sum())], [0, int((noise > -0.5).sum())]]
    assert certify(net, x, n=1000)[0].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a finite number above 0, not 0.0"),
        ({"sigma": -1.0}, "sigma must be a finite number above 0, not -1.0"),
        ({"sigma": float("nan")}, "sigma must be a finite number above 0, not nan"),
        ({"n0": 0}, "n0 must be at least 1 draw, not 0"),
        ({"n": 0}, "n must be at least 1 draw, not 0"),
        ({"alpha": 0.0}, r"alpha is a probability in \(0, 1\), not 0.0"),
        ({"alpha": 1.0}, r"alpha is a probability in \(0, 1\), not 1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"sigma": "a"}, "sigma must be a number such as 8/255, not 'a'"),
        ({"sigma": None}, "sigma must be a number such as 8/255, not None"),
        ({"n0": 10.5}, "n0 must be a whole number, not 10.5"),
        ({"n": 100.5}, "n must be a whole number, not 100.5"),
        ({"n": True}, "n must be a whole number, not True"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"batch_size": "512"}, "batch_size must be a whole number, not '512'"),
    ],
)
def test_bad_settings_are_refused(options, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        certify(linear_net(), X, **options)
    with pytest.raises((TypeError, ValueError), match=message):
        certify_dataset(linear_net(), (X, Y), tmp_path / "a.jsonl", **options)
    assert not list(tmp_path.iterdir())
    if "n0" not in options:
        with pytest.raises((TypeError, ValueError), match=message):
            predict(linear_net(), X, **options)


def test_bad_networks_and_images_are_refused(tmp_path):
    soft = keras.Sequential([keras.Input([3]), keras.layers.Dense(2, activation="softmax")])
    for call in (certify, predict):
        with pytest.raises(ValueError, match="ends in probabilities"):
            call(soft, X)
        with pytest.raises(ValueError, match=r"pixel values in \[0, 1\]"):
            call(linear_net(), 255 * X)
        with pytest.raises(ValueError, match=r"images of shape \(3,\)"):
            call(linear_net(), X[:, :2])
    with pytest.raises(ValueError, match="ends in probabilities"):
        certify_dataset(soft, (X, Y), tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"pixel values in \[0, 1\]"):
        certify_dataset(linear_net(), (255 * X, Y), tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="samples must be at least 1"):
        certify_dataset(linear_net(), (X, Y), tmp_path / "a.jsonl", samples=0)
    assert [len(values) for values in certify(linear_net(), X[:0])] == [0, 0]
