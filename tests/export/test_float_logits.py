"""int8 files whose last layer computes in float32."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

from hydra_tf.export import to_tflite
from hydra_tf.export.probes import Comparison
from hydra_tf.export.size import measure
from hydra_tf.export.sparse_encoding import with_float_logits
from hydra_tf.export.tflite import draft


def close_logits():
    """Return a network with logits x, x + 0.01 and -10 x, whose class is always 1."""
    net = keras.Sequential([keras.Input([1]), keras.layers.Dense(3)])
    net.set_weights([np.array([[1.0, 1.0, -10.0]]), np.array([0.0, 0.01, 0.0])])
    return net


def test_logits_that_8_bits_make_equal_stay_different(tmp_path, nets):
    images = np.linspace(0, 1, 64, dtype="float32")[:, None]
    options = {"sparse": False, "representative": images, "min_agreement": 0.0}
    # The range is [-10, 1.01]: a step of int8 is 0.043, four times the distance of two logits.
    int8 = to_tflite(close_logits(), tmp_path / "int8.tflite", "int8", **options)
    assert int8.agreement < 0.5
    assert f"images another class than Keras: {int8.agreement:.1%} agree, goal 99.5%" in int8.note
    assert 'quantization="int8_float_logits" helps' in int8.note
    path = tmp_path / "float.tflite"
    path.write_bytes(draft(close_logits(), "int8_float_logits", False, images))
    outputs, expected = nets.run(path, images), close_logits()(images).numpy()
    assert (outputs.argmax(1) == 1).all()
    # What is left is the rounding of the image, by at most 1/510, times the largest weight.
    np.testing.assert_allclose(outputs, expected, atol=10.1 / 510)


def test_the_last_layer_multiplies_what_8_bits_have_kept(tmp_path, nets):
    """The oracle is the int8 file: its last activations and weights, multiplied by NumPy."""
    net = nets.dense_net()
    images = nets.images_for(net, 30)
    path = tmp_path / "int8.tflite"
    path.write_bytes(draft(net, "int8", sparse=False, representative=images))
    changed = tmp_path / "changed.tflite"
    changed.write_bytes(with_float_logits(path.read_bytes()))
    single = keras.Sequential([keras.Input([12]), net.layers[0]])
    hidden = tmp_path / "hidden.tflite"
    hidden.write_bytes(draft(single, "int8", sparse=False, representative=images))
    activations = nets.run(hidden, images)
    kernel, bias = net.layers[1].kernel.numpy(), net.layers[1].bias.numpy()
    scales = np.abs(kernel).max(axis=0) / 127
    expected = activations @ (np.round(kernel / scales) * scales) + bias
    outputs = nets.run(changed, images)
    np.testing.assert_allclose(outputs, expected, atol=1e-3 * np.abs(expected).max())
    assert len(np.unique(outputs)) > len(np.unique(nets.run(path, images)))


@pytest.mark.slow(seconds=20)
def test_a_sparse_file_has_the_outputs_of_the_dense_one(tmp_path, nets):
    net = nets.mnist_cnn_like()
    nets.plant_zeros(net, 0.95)
    images = nets.images_for(net, 32)
    paths = tmp_path / "sparse.tflite", tmp_path / "dense.tflite"
    options = {"quantization": "int8_float_logits", "representative": images, "min_agreement": 0.0}
    sparse, dense = (to_tflite(net, path, sparse=path is paths[0], **options) for path in paths)
    assert sparse.quantization == "int8_float_logits" and sparse.sparse_encoding
    assert sparse.bytes < 0.5 * dense.bytes
    np.testing.assert_allclose(nets.run(paths[0], images), nets.run(paths[1], images), atol=1e-6)


def test_other_last_layers_are_refused(tmp_path):
    layers = [keras.Input([4, 4, 1]), keras.layers.Conv2D(3, 4), keras.layers.Flatten()]
    images = np.random.default_rng(0).random((8, 4, 4, 1), "float32")
    with pytest.raises(ValueError, match=r'whose last layer is dense; use "int8"\.$'):
        to_tflite(
            keras.Sequential(layers), tmp_path / "net.tflite", "int8_float_logits",
            representative=images,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="needs representative images"):
        to_tflite(close_logits(), tmp_path / "net.tflite", "int8_float_logits")


@pytest.mark.parametrize(("agreement", "note"), [(0.995, ""), (0.99, "The file gives 2 of 200 ")])
def test_a_report_says_that_the_agreement_is_low(agreement, note, tmp_path):
    file = pathlib.Path(tmp_path, "a")
    file.write_bytes(b"content")
    report = measure(file, "a.onnx", close_logits(), Comparison(0.1, 0.1, agreement, 200))
    assert report.note.startswith(note) and bool(report.note) is bool(note)
    assert "int8" not in report.note
