"""Exported TFLite files: sizes, outputs, quantization and reports."""

from __future__ import annotations

import gzip
import json
import os
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.export import ExportReport, converter, to_keras, to_tflite


def sparse_tensors(path, nets):
    details = nets.interpreter_of(path).get_tensor_details()
    return sum(tensor["sparsity_parameters"] != {} for tensor in details)


def weight_types(path, nets):
    shapes = {}
    for tensor in nets.interpreter_of(path).get_tensor_details():
        if len(tensor["shape"]) == 4 and tensor["shape"].tolist() == [32, 4, 4, 16]:
            shapes[tensor["dtype"]] = tensor["name"]
    return set(shapes)


@pytest.fixture(scope="module")
def at_densities(tmp_path_factory, nets):
    """Return report, path, net and counts of one network with 0, 90, 95 and 99% zeros."""
    exports = {}
    for zeros in (0.0, 0.9, 0.95, 0.99):
        net = nets.mnist_cnn_like()
        counts = nets.plant_zeros(net, zeros)
        path = tmp_path_factory.mktemp("sparse") / "net.tflite"
        exports[zeros] = (to_tflite(net, path), path, net, counts)
    return exports


def test_more_zeros_make_smaller_files(at_densities):
    sizes = [at_densities[zeros][0].bytes for zeros in (0.0, 0.9, 0.95, 0.99)]
    zipped = [at_densities[zeros][0].gzip_bytes for zeros in (0.0, 0.9, 0.95, 0.99)]
    assert sizes == sorted(sizes, reverse=True)
    assert zipped == sorted(zipped, reverse=True)
    assert sizes[1] < sizes[0] / 5
    assert sizes[3] < sizes[0] / 15


def test_sparse_is_smaller_than_plain_and_both_agree_with_keras(at_densities, tmp_path, nets):
    report, path, net, _ = at_densities[0.99]
    plain = to_tflite(net, tmp_path / "plain.tflite", sparse=False)
    assert (report.sparse_encoding, plain.sparse_encoding) == (True, False)
    assert (report.note, plain.note) == ("", "")
    assert report.bytes < plain.bytes / 15
    assert plain.bytes > plain.float32_bytes == 4 * net.count_params()
    images = nets.images_for(net)
    expected = net(images).numpy()
    for file in (path, tmp_path / "plain.tflite"):
        np.testing.assert_allclose(nets.run(file, images), expected, atol=1e-5)


def test_report_describes_the_file(at_densities, nets):
    for report, path, _, (zeros, weights) in at_densities.values():
        content = path.read_bytes()
        assert report.bytes == os.path.getsize(path) == len(content)
        assert report.gzip_bytes == len(gzip.compress(content, mtime=0))
        assert report.sparsity == zeros / weights
        assert report.path == str(path)
        assert report.sparse_encoding == (sparse_tensors(path, nets) > 0)
        assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_net_without_zeros_is_stored_densely(at_densities):
    report = at_densities[0.0][0]
    assert not report.sparse_encoding
    assert report.note == "Stored densely: sparse encoding would not make the file smaller."


def test_dense_net_equals_a_forward_pass_by_hand(tmp_path, nets):
    net = nets.dense_net()
    nets.plant_zeros(net, 0.5)
    images = nets.images_for(net)
    report = to_tflite(net, tmp_path / "net.tflite", representative=images)
    w1, b1, w2, b2 = (weight.numpy().astype(np.float64) for weight in net.weights)
    by_hand = np.maximum(images @ w1 + b1, 0) @ w2 + b2
    outputs = nets.run(tmp_path / "net.tflite", images)
    np.testing.assert_allclose(outputs, by_hand, atol=1e-5)
    assert report.probes == len(images)
    assert report.max_abs_error == pytest.approx(np.abs(outputs - net(images)).max(), abs=1e-6)
    assert report.relative_error <= 1e-6
    assert report.agreement == 1.0


def test_input_shape_is_fixed_to_one_image(at_densities, nets):
    interpreter = nets.interpreter_of(at_densities[0.99][1])
    assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 28, 28, 1]
    operations = {step["op_name"] for step in interpreter._get_ops_details()}
    assert "RESHAPE" in operations
    assert not operations & {"SHAPE", "PACK", "STRIDED_SLICE"}


@pytest.mark.parametrize(
    ("quantization", "dtype", "share"), [("float16", np.float16, 0.1), ("int8", np.int8, 0.08)]
)
def test_quantized_files(quantization, dtype, share, at_densities, tmp_path, nets):
    net = at_densities[0.9][2]
    images, path = nets.images_for(net, 100), tmp_path / "net.tflite"
    report = to_tflite(net, path, quantization, representative=images, min_agreement=0.5)
    assert report.quantization == quantization
    assert report.bytes < share * report.float32_bytes
    assert report.sparse_encoding
    assert sparse_tensors(path, nets) >= 2
    assert "densely" not in report.note
    assert ("another class than Keras" in report.note) is (report.agreement < 0.995)
    assert dtype in weight_types(path, nets)
    probes = images[np.linspace(0, 99, 64).round().astype(int)]
    outputs, expected = nets.run(path, probes), net(probes).numpy()
    error = np.abs(outputs - expected).max()
    assert report.max_abs_error == pytest.approx(error, rel=0.05)
    assert report.relative_error == pytest.approx(report.max_abs_error / np.abs(expected).max())
    same = np.mean(outputs.argmax(1) == expected.argmax(1))
    assert report.agreement == pytest.approx(same, abs=0.02)


def test_forms_of_representative_data(tmp_path, nets):
    net = nets.dense_net()
    images = nets.images_for(net, 30)
    labels = np.zeros(30)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    singles = tf.data.Dataset.from_tensor_slices(images)
    reports = [
        to_tflite(net, tmp_path / "net.tflite", "int8", sparse=False, representative=data)
        for data in (images, batches, singles)
    ]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0].probes == 30
    assert reports[0].note == ""


def test_masked_and_robust_models_are_stripped(tmp_path, nets):
    masked = hydra_tf.mask_model(nets.mnist_cnn_like())
    hydra_tf.set_density(masked, 0.01)
    images = nets.images_for(masked, 8)
    robust = hydra_tf.RobustModel(masked, objective="natural")
    for model in (masked, robust):
        report = to_tflite(model, tmp_path / "net.tflite")
        kept = hydra_tf.sparsity.report(masked)["total"]
        assert report.sparsity == pytest.approx(1 - kept["density"], abs=1e-9)
        assert report.sparse_encoding
        assert report.float32_bytes < 4 * masked.count_params() / 2
        outputs = nets.run(tmp_path / "net.tflite", images)
        np.testing.assert_allclose(outputs, masked(images).numpy(), atol=1e-5)


def test_nested_functional_model_with_batchnorm(tmp_path, nets):
    keras.utils.set_random_seed(1)
    inner_input = keras.Input([8, 8, 4])
    y = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inner_input)
    y = keras.layers.BatchNormalization()(y)
    inner = keras.Model(inner_input, keras.layers.ReLU()(y))
    images_in = keras.Input([8, 8, 1])
    x = keras.layers.Conv2D(4, 3, padding="same")(images_in)
    x = keras.layers.Add()([x, inner(x)])
    net = keras.Model(images_in, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    rng = np.random.default_rng(0)
    net.set_weights([w + 0.1 * rng.random(w.shape) for w in net.get_weights()])
    images = nets.images_for(net, 10)
    to_tflite(net, tmp_path / "net.tflite")
    np.testing.assert_allclose(nets.run(tmp_path / "net.tflite", images), net(images), atol=1e-4)


def test_mixed_precision_becomes_float32(tmp_path, nets):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    half = keras.Sequential(
        [keras.Input([6]), layers.Dense(8, activation="relu"), layers.Dropout(0.5)],
        name="half",
    )
    for layer in half.layers:
        layer.dtype_policy = "mixed_float16"
    inputs = keras.Input([6])
    net = keras.Model(inputs, layers.Dense(3, dtype="mixed_float16")(half(inputs)))
    images = nets.images_for(net, 16)
    report = to_tflite(net, tmp_path / "net.tflite")
    assert report.relative_error < 1e-5
    w1, b1, w2, b2 = (weight.numpy() for weight in net.weights)
    by_hand = np.maximum(images @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(nets.run(tmp_path / "net.tflite", images), by_hand, atol=1e-5)
    assert net.layers[-1].compute_dtype == "float16"


def test_the_converter_is_quiet(tmp_path, capfd, nets):
    to_tflite(nets.dense_net(), tmp_path / "net.tflite")
    with converter._quiet():
        print("from Python")
        os.write(2, b"from C++")
    assert capfd.readouterr() == ("", "")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_the_same_net_gives_the_same_bytes(tmp_path, nets):
    net = nets.dense_net()
    for name in ("a.tflite", "b.tflite"):
        to_tflite(net, tmp_path / name)
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


@pytest.mark.parametrize("constant", [True, False])
def test_constant_outputs_are_reported(constant, tmp_path, nets, caplog):
    net = nets.dense_net()
    if constant:
        net.layers[0].set_weights([np.zeros([12, 20]), np.zeros(20)])
    reports = [
        to_tflite(net, tmp_path / "net.tflite"),
        to_tflite(net, tmp_path / "net.tflite", "int8", representative=nets.images_for(net)),
        to_keras(net, tmp_path / "net.keras"),
    ]
    assert [report.constant for report in reports] == [constant] * 3
    assert [("constant" in report.note) for report in reports] == [constant] * 3
    assert caplog.text.count("The outputs are constant") == 3 * constant


def test_one_image_does_not_tell_whether_outputs_are_constant(tmp_path, nets):
    net = nets.dense_net()
    one = nets.images_for(net, 1)
    assert not to_tflite(net, tmp_path / "net.tflite", representative=one).constant


@pytest.mark.slow(seconds=60)
def test_two_exports_to_one_path_report_their_own_files(tmp_path, nets):
    net, path, found = nets.mnist_cnn_like(), tmp_path / "net.tflite", []

    def export(sparsity):
        other = nets.mnist_cnn_like()
        nets.plant_zeros(other, sparsity)
        for _ in range(2):
            found.append(to_tflite(other, path))

    threads = [threading.Thread(target=export, args=[zeros]) for zeros in (0.0, 0.99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = {sparse: {r.bytes for r in found if r.sparse_encoding == sparse} for sparse in (0, 1)}
    assert [len(sizes[sparse]) for sparse in (0, 1)] == [1, 1]
    assert max(sizes[1]) < min(sizes[0]) / 15
    assert path.stat().st_size in sizes[0] | sizes[1]
    assert os.listdir(tmp_path) == ["net.tflite"]
    assert net.count_params() * 4 < min(sizes[0])


def test_report_is_frozen():
    report = ExportReport("a", None, False, 1, 1, 0.0, 4, 0.0, 0.0, 1.0, 64)
    with pytest.raises(AttributeError):
        report.bytes = 2
