"""Exported .keras files of plain layers."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.export import dense, to_keras


def test_file_loads_without_hydra_tf_with_equal_outputs(tmp_path, nets):
    masked = hydra_tf.mask_model(nets.mnist_cnn_like())
    hydra_tf.set_density(masked, 0.1)
    images = nets.images_for(masked, 8)
    path = tmp_path / "net.keras"
    report = to_keras(masked, path)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, keras, numpy as np\n"
        "net = keras.models.load_model(sys.argv[1], safe_mode=True)\n"
        "np.save(sys.argv[3], net(np.load(sys.argv[2])).numpy())\n"
        "assert 'hydra_tf' not in sys.modules and not net.compiled\n"
    )
    names = [tmp_path / name for name in ("net.keras", "images.npy", "outputs.npy")]
    subprocess.run([sys.executable, "-c", code, *map(str, names)], check=True, timeout=120)
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(outputs, masked(images).numpy(), atol=1e-6)
    kept = hydra_tf.sparsity.report(masked)["total"]["density"]
    assert report.sparsity == pytest.approx(1 - kept, abs=1e-9)
    assert report.bytes == os.path.getsize(path)
    assert report.gzip_bytes == len(gzip.compress(path.read_bytes(), mtime=0))


def test_optimizer_is_not_exported(tmp_path, nets):
    net = nets.mnist_cnn_like()
    size = to_keras(net, tmp_path / "net.keras").bytes
    net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(nets.images_for(net, 8), np.zeros(8), verbose=0)
    assert to_keras(net, tmp_path / "net.keras").bytes == pytest.approx(size, rel=0.02)
    assert net.compiled


def test_pruned_weights_are_positive_zeros(tmp_path, nets):
    masked = hydra_tf.mask_model(nets.mnist_cnn_like())
    hydra_tf.set_density(masked, 0.01)
    report = to_keras(masked, tmp_path / "net.keras")
    kernels = [layer.kernel.numpy() for layer in masked.layers if hasattr(layer, "kernel")]
    assert any(np.signbit(kernel).mean() > 0.4 for kernel in kernels)
    loaded = keras.models.load_model(tmp_path / "net.keras")
    for weight in loaded.get_weights():
        assert not np.signbit(weight[weight == 0]).any()
    # A stored sign bit for each pruned weight would exceed this size.
    assert report.gzip_bytes < report.float32_bytes / 32


def test_zeros_are_counted_in_kernels_only(tmp_path, nets):
    net = nets.dense_net()
    zeros, weights = nets.plant_zeros(net, 0.75)
    assert to_keras(net, tmp_path / "net.keras").sparsity == zeros / weights == 0.75


def test_mixed_precision_is_kept(tmp_path):
    layers = keras.layers
    net = keras.Sequential([keras.Input([4]), layers.Dense(3, dtype="mixed_float16")])
    to_keras(net, tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert loaded.layers[0].compute_dtype == "float16"


def test_different_outputs_keep_the_older_file(tmp_path, monkeypatch, nets):
    path = tmp_path / "net.keras"
    path.write_bytes(b"the older file")
    monkeypatch.setattr(dense.keras.models, "load_model", lambda *_, **__: nets.dense_net(seed=1))
    with pytest.raises(RuntimeError, match=r"outputs differ from the model's by up to \S+, so"):
        to_keras(nets.dense_net(seed=0), path)
    assert path.read_bytes() == b"the older file"
    assert os.listdir(tmp_path) == ["net.keras"]


def test_bad_paths(tmp_path, nets):
    with pytest.raises(ValueError, match=r'must end in "\.keras"'):
        to_keras(nets.dense_net(), tmp_path / "net.h5")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        to_keras(nets.dense_net(), tmp_path / "missing" / "net.keras")
