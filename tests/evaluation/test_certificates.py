"""Files of certificates: contents, resuming, and files that are refused."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.evaluation import certificates as files
from hydra_tf.evaluation import (
    certified_accuracy,
    certify,
    certify_dataset,
    read_certificates,
)

W = np.array([1.8, -2.4, 0.0])


def linear_net(b=0.45, activation=None):
    """Logits (0, w.x + b)."""
    net = keras.Sequential([keras.Input([3]), keras.layers.Dense(2, activation)])
    net.set_weights([np.stack([np.zeros(3), W], 1), np.array([0.0, b])])
    return net


X = np.random.default_rng(4).random((70, 3)).astype("float32")
Y = (X @ W + 0.45 > 0).astype(int)
Y[::5] = 1 - Y[::5]
DRAWS = {"n0": 20, "n": 500}


@pytest.mark.parametrize("shared", [True, False])
def test_file_equals_certify(tmp_path, shared):
    path = tmp_path / "a.jsonl"
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(23)
    rows = certify_dataset(linear_net(), data, path, shared_noise=shared, **DRAWS)
    classes, radii = certify(linear_net(), X, shared_noise=shared, **DRAWS)
    assert [row["predicted"] for row in rows] == classes.tolist()
    assert [row["radius"] for row in rows] == radii.tolist()
    assert [row["correct"] for row in rows] == (classes == Y).tolist()
    assert [row["index"] for row in rows] == list(range(70))
    settings, stored = read_certificates(path)
    assert stored == rows
    assert settings["n"] == 500 and settings["shared_noise"] == shared
    expected = ((classes == Y) & (radii >= 110 / 255)).mean()
    assert certified_accuracy(rows) == pytest.approx(expected)
    assert 0 < expected < certified_accuracy(rows, 0.0) < 1


@pytest.mark.parametrize("shared", [True, False])
def test_interrupted_certification_gives_the_same_bytes(tmp_path, monkeypatch, shared):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(50)
    whole = tmp_path / "whole.jsonl"
    rows = certify_dataset(linear_net(), data, whole, shared_noise=shared, **DRAWS)
    path, append = tmp_path / "cut.jsonl", files._append
    for _ in range(2):
        calls = []

        def power_cut(*arguments, calls=calls):
            calls.append(arguments)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return append(*arguments)

        monkeypatch.setattr(files, "_append", power_cut)
        with pytest.raises(KeyboardInterrupt):
            certify_dataset(linear_net(), data, path, shared_noise=shared, **DRAWS)
        done = path.read_bytes()
        assert 1 < done.count(b"\n") < 70
        assert whole.read_bytes().startswith(done)
        # The last line is incomplete.
        path.write_bytes(done + b'{"index": 99, "lab')
    monkeypatch.setattr(files, "_append", append)
    assert certify_dataset(linear_net(), data, path, shared_noise=shared, **DRAWS) == rows
    assert path.read_bytes() == whole.read_bytes()
    # A complete file is not written again.
    monkeypatch.setattr(files, "_append", power_cut)
    assert certify_dataset(linear_net(), data, path, shared_noise=shared, **DRAWS) == rows


def test_numpy_numbers_are_accepted(tmp_path):
    path = tmp_path / "a.jsonl"
    options = {**DRAWS, "n": np.int64(DRAWS["n"]), "sigma": np.float32(0.5)}
    rows = certify_dataset(linear_net(), (X, Y), path, samples=np.int64(5), **options)
    assert certify_dataset(linear_net(), (X, Y), path, samples=5, **options) == rows


def test_number_of_samples_may_change(tmp_path):
    path = tmp_path / "a.jsonl"
    few = certify_dataset(linear_net(), (X, Y), path, samples=5, **DRAWS)
    assert len(few) == 5
    more = certify_dataset(linear_net(), (X, Y), path, samples=40, **DRAWS)
    assert len(more) == 40 and more[:5] == few
    assert certify_dataset(linear_net(), (X, Y), path, samples=5, **DRAWS) == few
    assert len(certify_dataset(linear_net(), (X, Y), path, **DRAWS)) == 70


def test_files_of_other_settings_are_refused_and_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    certify_dataset(linear_net(), (X, Y), path, samples=5, **DRAWS)
    before = path.read_bytes()
    other = {**DRAWS, "sigma": 0.5, "seed": 3}
    with pytest.raises(ValueError, match=r"certificates for other settings \(sigma, seed\)"):
        certify_dataset(linear_net(), (X, Y), path, **other)
    with pytest.raises(ValueError, match=r"other settings \(network\)"):
        certify_dataset(linear_net(b=0.2), (X, Y), path, **DRAWS)
    with pytest.raises(ValueError, match=r"other settings \(network\)"):
        certify_dataset(linear_net(activation="relu"), (X, Y), path, **DRAWS)
    with pytest.raises(ValueError, match="labels differ from those"):
        certify_dataset(linear_net(), (X[::-1], Y[::-1]), path, **DRAWS)
    with pytest.raises(ValueError, match="images differ from those"):
        certify_dataset(linear_net(), (X[::-1], Y), path, **DRAWS)
    assert path.read_bytes() == before
    lines = before.splitlines(keepends=True)
    without = [json.loads(line) for line in lines]
    for row in without:
        row.pop("image", None)  # older versions did not write it
    path.write_text("".join(json.dumps(row) + "\n" for row in without))
    with pytest.raises(ValueError, match="images differ from those"):
        certify_dataset(linear_net(), (X, Y), path, **DRAWS)
    for damaged in (
        b"not json\n",
        b"\xff\xfe\n",
        b"[]\n",
        lines[0] + lines[2],
        lines[0] + b"{\n" + lines[1],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.jsonl is damaged, or not a file of certificates"):
            certify_dataset(linear_net(), (X, Y), path, **DRAWS)
        assert path.read_bytes() == damaged
    with pytest.raises(FileNotFoundError):
        read_certificates(tmp_path / "missing.jsonl")
    with pytest.raises(ValueError, match="There are no certificates to count"):
        certified_accuracy([])
    empty = tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(5)
    with pytest.raises(ValueError, match="dataset is empty"):
        certify_dataset(linear_net(), empty, tmp_path / "b.jsonl", **DRAWS)


def test_network_hash_does_not_depend_on_layer_names():
    def built(activation="relu", dtype="float32", seed=0):
        inner = keras.Sequential([keras.Input([4]), keras.layers.Dense(4, activation, dtype=dtype)])
        x = inner(inputs := keras.Input([4]))
        x = keras.layers.Dense(2, kernel_initializer=keras.initializers.HeNormal(seed))(x + inputs)
        net = keras.Model(inputs, x)
        net.set_weights([np.full(weight.shape, 0.5) for weight in net.weights])
        return net

    expected = files.network_hash(built())
    compiled = built(seed=3)
    compiled.compile("adam", "mse")
    assert files.network_hash(compiled) == expected
    assert files.network_hash(built("tanh")) != expected
    assert files.network_hash(built(dtype="mixed_float16")) != expected
    assert files.network_hash(lambda x: x) == files.network_hash(lambda x: 2 * x)


def test_certified_accuracy_by_hand():
    rows = [
        {"correct": True, "radius": 0.5},
        {"correct": False, "radius": 0.9},
        {"correct": True, "radius": 110 / 255},
        {"correct": False, "radius": 0.0},
    ]
    accuracies = [certified_accuracy(rows, radius) for radius in (0.0, 110 / 255, 0.44, 0.5, 0.51)]
    assert accuracies == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert json.loads(json.dumps(rows)) == rows
