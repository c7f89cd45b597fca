"""Bars of evaluations say what is measured."""

import re

import keras
import numpy as np
import pytest

from hydra_tf import evaluation
from hydra_tf.evaluation.progress import ProgressBar

DATA = np.array([[0.5, 0.25], [0.25, 0.5]], np.float32), np.array([0, 0])


def net():
    net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, use_bias=False)])
    net.set_weights([np.eye(2)])  # the class is the larger pixel: 0, then 1
    return net


@pytest.mark.parametrize(
    ("measure", "shown"),
    [
        (lambda **o: evaluation.accuracy(net(), DATA, **o), "accuracy: 0.5000"),
        (
            lambda **o: evaluation.robust_accuracy(net(), DATA, "pgd:epsilon=0.2,steps=1", **o),
            "accuracy (pgd): 0.0000e+00",
        ),
        (
            lambda **o: evaluation.verified_accuracy(net(), DATA, 0.1, "ibp", **o),
            "verified (epsilon=0.1): 0.5000",
        ),
    ],
)
def test_the_bar_names_what_it_shows(measure, shown, capsys):
    measure(verbose=1)
    assert f"- {shown}\n" in capsys.readouterr().out


def test_bars_of_distances_and_certificates(tmp_path, capsys):
    evaluation.minimal_distances(net(), DATA, "fmn:steps=2", verbose=1)
    assert re.search(r"- median distance \(fmn\): \d", capsys.readouterr().out)
    path = tmp_path / "certify.jsonl"
    evaluation.certify_dataset(net(), DATA, path, sigma=0.5, n0=1, n=10, alpha=0.5, verbose=1)
    assert re.search(r"- certified \(sigma=0\.5\): \d", capsys.readouterr().out)


def test_a_title_does_not_average_the_measure(capsys):
    bar = ProgressBar(2, "accuracy", 1, "pgd")
    bar.show(1, 1.0)
    bar.show(2, 0.25)
    assert "accuracy (pgd): 0.2500" in capsys.readouterr().out
