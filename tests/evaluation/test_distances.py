"""Smallest adversarial distances of a linear network in closed form, and security curves."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import evaluation

RNG = np.random.default_rng(5)
X = RNG.uniform(0.35, 0.65, (37, 6)).astype("float32")
KERNEL = RNG.normal(size=(6, 2)).astype("float32")
BIAS = -np.mean(X, axis=0) @ KERNEL
Y = np.argmax(X @ KERNEL + BIAS + RNG.normal(size=(37, 2)) * 0.2, 1)


@pytest.fixture(scope="module")
def net():
    net = keras.Sequential([keras.Input([6]), keras.layers.Dense(2)])
    net.set_weights([KERNEL, BIAS])
    return net


def exact(norm):
    """The distance to the plane at which the other logit is as large, 0 beyond it."""
    margins = (X @ KERNEL + BIAS) @ [1, -1] * np.where(Y == 0, 1, -1)
    slope = KERNEL @ [1, -1]
    return np.maximum(margins / np.linalg.norm(slope, ord=1 if norm == "linf" else 2), 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_and_robust_accuracies_of_a_linear_network(net, norm):
    expected = exact(norm)
    wrong = np.argmax(X @ KERNEL + BIAS, 1) != Y
    assert 2 < wrong.sum() < 20 and expected.max() < 0.35  # no pixel reaches 0 or 1
    # The epsilon of the spec limits nothing; 37 = 2 * 16 + 5.
    spec = f"fmn:norm={norm},epsilon=0.0001,steps=25"
    data = tf.data.Dataset.from_tensor_slices((X, np.eye(2)[Y])).batch(16)
    if norm == "linf":
        labels, found = evaluation.labelled_distances(net, data, spec)
        assert np.array_equal(labels, Y)
    else:
        found = evaluation.minimal_distances(net, data, spec)
    assert (found[wrong] == 0).all() and (found[~wrong] > expected[~wrong]).all()
    np.testing.assert_allclose(found, expected, rtol=0.015)
    radii = np.array([0.0, 0.045, 0.1, 1.0])
    robust = [np.mean(expected > radius) for radius in radii]
    assert robust[0] > robust[1] > robust[3] == 0
    assert np.abs(expected[:, None] / radii[1:] - 1).min() > 0.015  # no image near a radius
    assert evaluation.robust_accuracy_curve(found, radii).tolist() == pytest.approx(robust)


def test_curves_by_hand_and_falling():
    distances = [0.3, 0.0, np.inf, 0.1]
    curve = evaluation.robust_accuracy_curve(distances, [0.0, 0.1, 0.2, 0.3, 9.0])
    # An image at a distance of exactly epsilon is in the ball.
    assert curve.tolist() == [0.75, 0.5, 0.5, 0.25, 0.25]
    many = evaluation.robust_accuracy_curve(RNG.exponential(size=50), np.linspace(0, 5, 200))
    assert (np.diff(many) <= 0).all() and many[0] == 1 > many[-1]


@pytest.mark.parametrize(
    ("distances", "epsilons", "sentence"),
    [
        ([], [0.1], "at least one number"),
        ([[0.1]], [0.1], r"not of shape \(1, 1\)"),
        ([0.1, np.nan], [0.1], "distances must be numbers of at least 0"),
        ([0.1], [-0.1], "epsilons must be numbers of at least 0"),
    ],
)
def test_bad_distances_are_refused(distances, epsilons, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluation.robust_accuracy_curve(distances, epsilons)


def test_what_is_not_broken_is_infinitely_far_and_gradients_are_counted(caplog):
    def rounds(x, training=False):  # without a gradient
        return tf.round(x) * 2.0

    x, y = np.array([[0.9, 0.1], [0.2, 0.8]], "float32"), [0, 0]
    with caplog.at_level("WARNING"):
        found = evaluation.minimal_distances(rounds, (x, y), "fmn:steps=2")
    assert found.tolist() == [np.inf, 0.0]
    assert 'the gradient of the attack "fmn" was zero' in caplog.text


def test_other_attacks_and_empty_data_are_refused(net):
    with pytest.raises(ValueError, match='"pgd" does not look for the smallest change'):
        evaluation.minimal_distances(net, (X, Y), "pgd")
    with pytest.raises(ValueError, match="dataset is empty"):
        evaluation.minimal_distances(net, (X[:0], Y[:0]))


def test_the_file_has_every_distance(tmp_path):
    values = np.array([0.0, 1 / 3, np.inf], "float32")
    path = tmp_path / "distances.csv"
    evaluation.write_distances(path, evaluation.Distances(np.array([4, 0, 9]), values))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["index"]), int(row["label"])) for row in rows] == [(0, 4), (1, 0), (2, 9)]
    assert np.array_equal(np.array([row["distance"] for row in rows], "float32"), values)
