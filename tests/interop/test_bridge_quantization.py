"""TFMOT's quantization-aware training and clustering on networks that were pruned here."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import hydra_tf
from hydra_tf.export.litert import run_file
from hydra_tf.interop.tfmot import (
    from_tf_keras,
    import_tf_keras,
    import_tfmot,
    quantized_to_tflite,
    to_tf_keras,
)
from hydra_tf.interop.tfmot import quantization as quantization_module

EPSILON = 0.1
KERNELS = ("first", "second", "logits")


@pytest.fixture(scope="module")
def digits():
    """All training images and labels of the digits."""
    data = hydra_tf.data.load("digits", batch_size=64, seed=0)
    images, labels = zip(*((x.numpy(), y.numpy()) for x, y in data.train), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def network():
    return keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Conv2D(16, 3, strides=2, name="second"),
            keras.layers.ReLU(name="relu2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


@pytest.fixture(scope="module")
def pruned(digits):
    """A masked network that keeps a quarter of its weights, trained a little."""
    keras.utils.set_random_seed(0)
    masked = hydra_tf.mask_model(network())
    hydra_tf.set_density(masked, 0.25)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    masked.compile(keras.optimizers.Adam(0.01), loss)
    masked.fit(*digits, batch_size=64, epochs=4, verbose=0)
    return masked


def train(model, images, labels):
    """Train a tf_keras model for an epoch."""
    tf_keras = import_tf_keras()
    if not model.optimizer:
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # A decay would move pruned weights if they were not exactly 0.
        model.compile(tf_keras.optimizers.AdamW(1e-3, weight_decay=0.01), loss)
    model.fit(images, labels, batch_size=64, shuffle=False, verbose=0)


def quantize(model, scheme):
    """Return the tf_keras model with emulated quantization, by TFMOT's public functions."""
    quantization = import_tfmot().quantization.keras
    return quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme)


@pytest.fixture(scope="module")
def trained(pruned, digits):
    """The network after robust quantization-aware training that preserves sparsity."""
    combine = import_tfmot().experimental.combine
    quantized = quantize(to_tf_keras(pruned), combine.Default8BitPrunePreserveQuantizeScheme())
    # The first passes measure ranges, on which an attack through the quantized network depends.
    train(quantized, *digits)
    images, labels = digits
    attack = hydra_tf.attacks.build(f"pgd:epsilon={EPSILON},steps=3")
    attacked = np.concatenate(
        [attack(quantized, images[i : i + 64], labels[i : i + 64]) for i in range(0, 320, 64)]
    )
    train(quantized, attacked, labels[: len(attacked)])
    return quantized


def kernels(model):
    return {name: np.asarray(model.get_layer(name).kernel) for name in KERNELS}


def test_training_keeps_every_zero_and_comes_back(pruned, trained):
    before, after = kernels(hydra_tf.strip_masks(pruned)), kernels(from_tf_keras(trained))
    for name in KERNELS:
        kept = np.asarray(pruned.get_layer(name).mask)
        assert 0.2 < kept.mean() < 0.3
        assert not after[name][~kept].any()
        # Training did change the others.
        assert (after[name] != before[name])[kept].mean() > 0.99


@pytest.mark.slow(seconds=20)
def test_plain_quantization_aware_training_would_lose_zeros(pruned, digits):
    """The scheme, not the bridge or the optimizer, keeps the zeros."""
    quantized = import_tfmot().quantization.keras.quantize_model(to_tf_keras(pruned))
    train(quantized, *digits)
    pruned_weights = ~np.asarray(pruned.get_layer("logits").mask)
    assert kernels(from_tf_keras(quantized))["logits"][pruned_weights].any()


def test_the_float_network_predicts_what_the_quantized_one_does(trained, digits):
    images, labels = digits
    plain = from_tf_keras(trained)
    quantized = np.asarray(trained(images, training=False))
    found = np.asarray(plain(images, training=False))
    # Ranges are moving averages: single values beyond them are cut, so that few differ more.
    assert np.abs(found - quantized).mean() < 0.02 * np.abs(quantized).max()
    agree = np.mean(found.argmax(1) == quantized.argmax(1))
    right = np.mean(quantized.argmax(1) == labels)
    assert agree > 0.97 and right > 0.8
    assert [type(layer).__name__ for layer in plain.layers] == [
        "InputLayer", "Conv2D", "BatchNormalization", "ReLU", "Conv2D", "Flatten", "Dense",
    ]  # fmt: skip
    assert plain.get_layer("second").activation is keras.activations.relu
    assert plain.get_layer("logits").activation is keras.activations.linear


def test_the_float_network_is_masked_again_with_its_zeros(pruned, trained):
    masked = hydra_tf.mask_model(from_tf_keras(trained))
    hydra_tf.set_density(masked, 0.25)
    for name in KERNELS:
        old, new = (np.asarray(net.get_layer(name).mask) for net in (pruned, masked))
        np.testing.assert_array_equal(old, new)


def test_quantized_networks_are_attacked_and_evaluated(trained, digits):
    images, labels = digits[0][:64], digits[1][:64]
    attacked = hydra_tf.attacks.build(f"pgd:epsilon={EPSILON},steps=5")(trained, images, labels)
    assert np.abs(attacked - images).max() <= EPSILON + 1e-6
    test = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    accuracy = hydra_tf.evaluation.accuracy(trained, test)
    assert accuracy == np.mean(np.argmax(trained(images, training=False), 1) == labels)
    robust = hydra_tf.evaluation.robust_accuracy(trained, test, f"pgd:epsilon={EPSILON},steps=5")
    assert robust < accuracy


def int8_kernels(file):
    """Return the kernels of a TFLite file, output channels first, by their number of entries."""
    interpreter = Interpreter(model_path=str(file))
    found = {}
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] == np.int8 and len(tensor["shape"]) in (2, 4):
            try:
                values = interpreter.get_tensor(tensor["index"])
            except ValueError:  # an activation, which has no value yet
                continue
            assert not tensor["quantization_parameters"]["zero_points"].any()
            found[values.size] = values
    return found


def test_the_tflite_file_equals_the_network_and_has_its_zeros(pruned, trained, digits, tmp_path):
    file = tmp_path / "net.tflite"
    report = quantized_to_tflite(trained, file, representative=digits[0])
    assert report.quantization == "int8" and report.sparsity == pytest.approx(0.75, abs=0.01)
    assert report.bytes == file.stat().st_size and report.agreement == 1.0
    # Emulation and LiteRT may round a value to neighbouring numbers of 8 bits.
    assert report.relative_error < 0.02
    outputs = run_file(file, digits[0][:100]).outputs
    expected = np.asarray(trained(digits[0][:100], training=False))
    assert np.mean(outputs.argmax(1) == expected.argmax(1)) > 0.98
    found = int8_kernels(file)
    assert len(found) == len(KERNELS)
    for name in KERNELS:
        kept = np.asarray(pruned.get_layer(name).mask)
        kept = np.moveaxis(kept, -1, 0)  # TFLite stores output channels first
        assert not found[kept.size][~kept].any()
        assert found[kept.size][kept].any()


def test_a_file_that_cannot_be_run_is_not_kept(trained, tmp_path, monkeypatch):
    file = tmp_path / "net.tflite"
    file.write_bytes(b"old")
    monkeypatch.setattr(quantization_module, "converted", lambda *_: b"no TFLite file")
    with pytest.raises(RuntimeError, match=r"^LiteRT cannot run the TFLite file"):
        quantized_to_tflite(trained, file)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]


def test_kernels_that_tfmot_does_not_quantize_are_refused(pruned, tmp_path):
    combine = import_tfmot().experimental.combine
    unfused = to_tf_keras(pruned, fuse_relu=False)
    quantized = quantize(unfused, combine.Default8BitPrunePreserveQuantizeScheme())
    with pytest.raises(ValueError, match=r"does not quantize the kernels of second, nor preserve"):
        quantized_to_tflite(quantized, tmp_path / "net.tflite")


def test_other_models_are_refused(pruned, tmp_path):
    file = tmp_path / "net.tflite"
    with pytest.raises(TypeError, match=r"^quantized_to_tflite takes a tf_keras .* not"):
        quantized_to_tflite(pruned, file)
    with pytest.raises(ValueError, match=r"^No layer of the model is quantized; .*tfmot\."):
        quantized_to_tflite(to_tf_keras(pruned), file)
    assert not file.exists()


@pytest.mark.slow(seconds=20)
def test_clusters_and_zeros_survive_clustering_and_quantization(pruned, digits):
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    tfmot = import_tfmot()
    clustering = tfmot.clustering.keras
    clustered = cluster.cluster_weights(
        to_tf_keras(pruned),
        number_of_clusters=8,
        cluster_centroids_init=clustering.CentroidInitialization.LINEAR,
        preserve_sparsity=True,
    )
    train(clustered, *digits)
    with pytest.raises(ValueError, match=r"\(ClusterWeights\); call .*\.strip_clustering"):
        from_tf_keras(clustered)
    stripped = clustering.strip_clustering(clustered)
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(
        preserve_sparsity=True
    )
    quantized = quantize(stripped, scheme)
    train(quantized, *digits)
    for model in (stripped, quantized):
        back = from_tf_keras(model)
        for name, kernel in kernels(back).items():
            kept = np.asarray(pruned.get_layer(name).mask)
            assert not kernel[~kept].any()
            assert 2 < len(np.unique(kernel)) <= 8
    images = digits[0][:64]
    expected = stripped(images, training=False)
    np.testing.assert_allclose(from_tf_keras(stripped)(images), expected, rtol=0, atol=1e-5)


def test_separable_convolutions_come_back_as_the_two_that_tfmot_makes(digits):
    net = keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            keras.layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    quantized = import_tfmot().quantization.keras.quantize_model(to_tf_keras(net))
    back = from_tf_keras(quantized)
    assert [type(layer).__name__ for layer in back.layers[1:3]] == ["DepthwiseConv2D", "Conv2D"]
    images = digits[0][:64]
    np.testing.assert_allclose(back(images), net(images), rtol=0, atol=1e-6)
