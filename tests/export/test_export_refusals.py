"""Exports that fail with a clear error, and files that are kept."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.export import examiner, litert, to_keras, to_tflite
from hydra_tf.export import tflite as tflite_module
from hydra_tf.export.litert import run_file
from hydra_tf.export.probes import compare


@pytest.fixture
def no_conversion(monkeypatch):
    def fail(*_):
        raise AssertionError("conversion began")

    monkeypatch.setattr(tflite_module, "converted", fail)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("net.lite", ValueError, r'must end in "\.tflite", but the path is "\S*net\.lite"\.$'),
        ("missing/net.tflite", FileNotFoundError, r'folder "\S*missing" does not exist'),
        ("folder.tflite", IsADirectoryError, r'folder\.tflite" is a folder; name a file'),
        ("/proc/net.tflite", PermissionError, r'Cannot write in the folder "/proc": .*\.$'),
    ],
)
def test_bad_paths(name, error, message, tmp_path, no_conversion, nets):
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(error, match=message):
        to_tflite(nets.dense_net(), tmp_path / name)
    assert os.listdir(tmp_path) == ["folder.tflite"]
    with pytest.raises(TypeError, match=r'must name a file that ends in "\.tflite", not None'):
        to_tflite(nets.dense_net(), None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"quantization": "int4"},
            ValueError,
            r'^Unknown quantization "int4"; did you mean "int8"\? Known: float16, int8, '
            r"int8_float_logits\. Leave",
        ),
        (
            {"quantization": "dynamic_range"},
            ValueError,
            '^quantization="dynamic_range" is not offered: LiteRT loads no .*; use "int8"',
        ),
        ({"prefer": "sise"}, ValueError, '^Unknown preference "sise"; did you mean "size"'),
        ({"quantization": "int8"}, ValueError, '^quantization="int8" needs representative'),
        ({"tolerance": -1.0}, ValueError, r"^tolerance must be a number of at least 0, not -1\.0"),
        ({"tolerance": float("nan")}, ValueError, "^tolerance must be .*, not nan"),
        ({"min_agreement": 2.0}, ValueError, r"^min_agreement must be in \[0, 1\], not 2\.0"),
        ({"representative": np.zeros([3, 11])}, ValueError, r"shape \[n, 12\] .* is \[3, 11\]"),
        ({"representative": np.zeros([12])}, ValueError, r"shape \[n, 12\] .* is \[12\]"),
        ({"representative": np.zeros([0, 12])}, ValueError, r"n at least 1.* is \[0, 12\]"),
        (
            {"representative": np.full([2, 12], 255)},
            ValueError,
            r"pixel values in \[0, 1\], but they span \[255, 255\]; divide 8-bit",
        ),
        ({"representative": np.full([2, 12], np.nan)}, ValueError, "a pixel that is NaN"),
        ({"representative": object()}, TypeError, "must be an array .* not object"),
    ],
)
def test_bad_options(options, error, message, tmp_path, no_conversion, nets):
    with pytest.raises(error, match=message):
        to_tflite(nets.dense_net(), tmp_path / "net.tflite", **options)
    assert os.listdir(tmp_path) == []


def test_models_that_cannot_be_exported(tmp_path, no_conversion, nets):
    first, second = keras.Input([4]), keras.Input([4])
    two = keras.Model([first, second], keras.layers.Dense(2)(keras.layers.Add()([first, second])))
    with pytest.raises(ValueError, match=r"one input and one output .* this one has 2 and 1\."):
        to_tflite(two, tmp_path / "net.tflite")
    pooled = keras.layers.GlobalAveragePooling2D()
    free = keras.Sequential([keras.Input([None, None, 3]), pooled])
    with pytest.raises(ValueError, match=r"shape \(None, None, 3\), which is not fixed"):
        to_tflite(free, tmp_path / "net.tflite")
    broken = nets.dense_net()
    broken.layers[0].kernel.assign(np.full([12, 20], np.nan))
    for export, name in ((to_tflite, "net.tflite"), (to_keras, "net.keras")):
        with pytest.raises(ValueError, match="NaN or infinite outputs on the probe images"):
            export(broken, tmp_path / name)
    assert os.listdir(tmp_path) == []


def check_refused(model, path, message, **options):
    path.write_bytes(b"the older file")
    with pytest.raises(RuntimeError, match=message):
        to_tflite(model, path, **options)
    assert path.read_bytes() == b"the older file"
    assert os.listdir(path.parent) == [path.name]


def test_weights_too_large_for_float16_keep_the_older_file(tmp_path, nets):
    net = nets.dense_net()
    net.layers[0].kernel.assign(np.full([12, 20], 1e6))
    message = r"differ from Keras's by up to \S+, 0\.9\d* of the largest output, but the .* is 0.01"
    check_refused(net, tmp_path / "net.tflite", message, quantization="float16")


def test_error_above_the_tolerance_keeps_the_older_file(tmp_path, nets):
    net = nets.dense_net()
    message = r"differ from Keras's by up to \S+, \S+ of the largest output, but .* is 1e-09"
    options = {"quantization": "float16", "tolerance": 1e-9}
    check_refused(net, tmp_path / "net.tflite", message, **options)


def test_too_little_agreement_keeps_the_older_file(tmp_path, monkeypatch, nets):
    net = nets.dense_net()
    images = nets.images_for(net, 10)
    expected = net(images).numpy()
    two_swapped = expected.copy()
    two_swapped[:2] = expected[:2, ::-1]
    flips = np.mean(two_swapped.argmax(1) == expected.argmax(1))
    trials = {"LiteRT": litert.Trial(two_swapped, two_swapped, 0)}
    monkeypatch.setattr(examiner, "run_everywhere", lambda *_: trials)
    message = rf"Keras's class on only {flips:.1%} of 10 images, but at least 99\.0%"
    options = {"representative": images, "tolerance": 10.0, "min_agreement": 0.99}
    check_refused(net, tmp_path / "net.tflite", message, **options)


def test_unsupported_operation(tmp_path):
    class SingularValues(keras.layers.Layer):
        def call(self, inputs):
            return tf.linalg.svd(inputs, compute_uv=False)

    net = keras.Sequential([keras.Input([4, 4]), SingularValues()])
    message = r"^TensorFlow cannot convert the model to TFLite: TFLite has no operation for Svd\.$"
    check_refused(net, tmp_path / "net.tflite", message)


def test_crash_of_litert_raises_an_error(tmp_path, monkeypatch):
    worker = tmp_path / "crashing_worker.py"
    worker.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(litert, "_WORKER", "crashing_worker")
    with pytest.raises(RuntimeError, match=r"^LiteRT crashed on the TFLite file \(signal 11\)\.$"):
        run_file(tmp_path / "any.tflite", np.zeros([1, 4], np.float32))


def test_dead_layer_of_an_int8_file_is_named(tmp_path):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input([12, 12, 1]),
            layers.Conv2D(6, 3, activation="relu", name="first"),
            layers.Conv2D(6, 3, activation="relu", name="dead"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    kernel, bias = net.get_layer("dead").get_weights()
    net.get_layer("dead").set_weights([-np.abs(kernel), bias])
    images = np.random.default_rng(0).random([40, 12, 12, 1], dtype=np.float32)
    message = r'^int8 needs .* all outputs of the layer "dead" are 0 on all 40 representative'
    options = {"quantization": "int8", "representative": images}
    check_refused(net, tmp_path / "net.tflite", message, **options)


def test_layers_that_cannot_be_copied_are_named(tmp_path, no_conversion):
    class WithoutConfig(keras.layers.Layer):
        def __init__(self, value):
            super().__init__(name="odd")
            self.value = value

        def call(self, inputs):
            return inputs

    def my_activation(x):
        return keras.ops.tanh(x)

    causes = {
        r"\(WithoutConfig\) cannot be copied: its class has no get_config; .*\.$": WithoutConfig(
            object()
        ),
        r'\(Dense\) cannot be copied: it uses the function "my_activation", which is not '
        r"registered; .*\.$": keras.layers.Dense(4, activation=my_activation, name="odd"),
    }
    for message, layer in causes.items():
        net = keras.Sequential([keras.Input([4]), layer, keras.layers.Dense(2)])
        for export, name in ((to_tflite, "net.tflite"), (to_keras, "net.keras")):
            with pytest.raises(ValueError, match=f'^The layer "odd" {message}'):
                export(net, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_invalid_tflite_file(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"not a flatbuffer" * 10)
    with pytest.raises(RuntimeError, match=r"^LiteRT cannot run the TFLite file: .+"):
        run_file(tmp_path / "bad.tflite", np.zeros([1, 4], np.float32))


def test_outputs_of_another_shape():
    with pytest.raises(RuntimeError, match=r"outputs of shape \(2, 3\), but Keras \(2, 4\)"):
        compare(np.zeros([2, 3]), np.zeros([2, 4]))


def test_wrong_sparse_file_falls_back_to_a_dense_one(tmp_path, monkeypatch, nets):
    net = nets.mnist_cnn_like()
    nets.plant_zeros(net, 0.99)
    sizes = []

    def first_time_wrong(path, images):
        sizes.append(pathlib.Path(path).stat().st_size)
        trials = litert.run_everywhere(path, images)
        if len(sizes) > 1:
            return trials
        wrong = trials["LiteRT"].outputs * np.nan
        return {"LiteRT": dataclasses.replace(trials["LiteRT"], without_xnnpack=wrong)}

    monkeypatch.setattr(examiner, "run_everywhere", first_time_wrong)
    report = to_tflite(net, tmp_path / "net.tflite")
    assert sizes[0] < sizes[1] == report.bytes == os.path.getsize(tmp_path / "net.tflite")
    assert not report.sparse_encoding
    assert report.note == (
        "Stored densely: In LiteRT without XNNPACK: The file returns NaN or infinite outputs, but "
        "Keras does not."
    )
