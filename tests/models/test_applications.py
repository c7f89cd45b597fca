"""The families of keras.applications: masked whole, pruned, trained, saved, stripped, exported."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.models import application, with_preprocessing
from hydra_tf.sparsity import kept_count, masked_layers, report

# Family, image size, and whether a TFLite file is written.
FAMILIES = [
    ("ResNet50", 32, False), ("ResNet50V2", 32, False), ("MobileNet", 32, True),
    ("MobileNetV2", 32, True), ("MobileNetV3Small", 32, True), ("EfficientNetB0", 32, True),
    ("EfficientNetV2B0", 32, False), ("DenseNet121", 32, False), ("VGG16", 32, False),
    ("InceptionV3", 75, False), ("Xception", 71, False), ("NASNetMobile", 32, True),
    ("ConvNeXtTiny", 32, False),
]  # fmt: skip
DENSITY = 0.2
_LOADING = """
import keras, numpy, hydra_tf
net = keras.saving.load_model("masked.keras", safe_mode=True)
numpy.save("outputs.npy", net(numpy.load("images.npy")))
"""


def images(size, count=2):
    return np.random.default_rng(0).random((count, size, size, 3)).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "exported"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_a_family(name, size, exported, tmp_path):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    net, x = application(name, input_shape=(size, size, 3), classes=10), images(size)
    masked = hydra_tf.mask_model(net)
    wanted = np.asarray(net(x))
    np.testing.assert_allclose(masked(x), wanted, atol=1e-5 * np.abs(wanted).max())

    hydra_tf.set_density(masked, DENSITY)
    rows = report(masked)["layers"]
    with_mask = sum(row["weights"] for row in rows if row["masked"])
    assert with_mask >= 0.99 * sum(row["weights"] for row in rows)
    # All weights of rank 2 and more, by Keras: nothing is left out of the report.
    kernels = [w for w in net.trainable_weights if len(w.shape) > 1]
    assert sum(row["weights"] for row in rows) >= 0.99 * sum(w.numpy().size for w in kernels)
    for row in rows:
        assert row["kept"] == kept_count(DENSITY, row["weights"]), row["name"]

    model = hydra_tf.RobustModel(masked, "natural", train_batchnorm=False)
    # ConvNeXt scales its residual branches by 1e-6, so that gradients are small.
    model.compile(keras.optimizers.SGD(1e3))
    model.set_phase("prune", 1)
    scores = [np.asarray(layer.scores) for layer in masked_layers(model)]
    own = {id(layer.scores) for layer in masked_layers(model)}
    frozen = [v for v in masked.trainable_variables if id(v) not in own]
    before = [np.asarray(v) for v in frozen]
    model.train_on_batch(x, np.array([1, 2]))
    for variable, value in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    after = [np.asarray(layer.scores) for layer in masked_layers(model)]
    moved = [np.any(a != b) for a, b in zip(after, scores, strict=True)]
    assert np.mean(moved) > 0.9, f"{np.mean(moved):.0%} of the kernels have scores that move"
    for row in report(masked)["layers"]:
        assert row["kept"] == kept_count(DENSITY, row["weights"]), row["name"]

    pruned = np.asarray(masked(x))
    masked.save(tmp_path / "masked.keras")
    np.save(tmp_path / "images.npy", x)
    script = tmp_path / "outputs.py"
    script.write_text(_LOADING)
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path, timeout=600)
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), pruned)

    stripped = hydra_tf.strip_masks(masked)
    assert not masked_layers(stripped)
    np.testing.assert_allclose(stripped(x), pruned, atol=1e-5 * np.abs(pruned).max())
    if exported:
        exported = hydra_tf.export.to_tflite(masked, tmp_path / "net.tflite")
        assert exported.max_abs_error <= 1e-3 * max(1, np.abs(pruned).max())


@pytest.mark.parametrize(
    ("mode", "module"),
    [("caffe", "resnet50"), ("tf", "resnet_v2"), ("torch", "densenet"), ("raw", None)],
)
def test_preprocessing_is_that_of_keras(mode, module):
    x = images(8)
    net = with_preprocessing(
        keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Flatten()]), mode
    )
    wanted = 255 * x
    if module is not None:
        wanted = getattr(keras.applications, module).preprocess_input(wanted.copy())
    np.testing.assert_allclose(net(x), wanted.reshape(2, -1), rtol=1e-5, atol=1e-4)


def test_preprocessing_is_bounded_too():
    keras.utils.set_random_seed(0)
    flat = keras.Sequential([keras.Input([2, 2, 3]), keras.layers.Flatten(), keras.layers.Dense(2)])
    net, x = with_preprocessing(flat, "caffe"), images(2)
    bound = hydra_tf.bounds.bound(net, x, 0.01, method="crown")
    for shift in (-0.01, 0.01):
        outputs = np.asarray(net(np.clip(x + shift, 0, 1)))
        assert np.all(outputs >= bound.lower) and np.all(outputs <= bound.upper)
    # From one corner of the ball to the other, each logit changes by 2 * 0.01 * 255 * sum|w|.
    width = 2 * 0.01 * 255 * np.abs(flat.layers[-1].kernel).sum(0)
    inside = hydra_tf.bounds.bound(net, np.full_like(x, 0.5), 0.01, method="crown")
    np.testing.assert_allclose(inside.upper - inside.lower, np.stack([width] * 2), rtol=1e-3)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r'Unknown preprocessing "bgr". Known: caffe, raw, tf, t'):
        with_preprocessing(keras.Sequential([keras.Input([8, 8, 3])]), "bgr")
    with pytest.raises(ValueError, match='Preprocessing "torch" is that of RGB images'):
        with_preprocessing(keras.Sequential([keras.Input([8, 8, 1]), keras.layers.ReLU()]), "torch")
    with pytest.raises(ValueError, match='Unknown architecture "MobileNetV9"; did you mean "Mob'):
        application("MobileNetV9")
