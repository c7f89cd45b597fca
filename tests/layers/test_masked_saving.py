"""Saved models load in a new process that imports hydra_tf only."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.sparsity import masked_layers

L = keras.layers

CODE = """
import sys
import numpy as np
import hydra_tf
from keras.saving import load_model
folder = sys.argv[1]
data = np.load(folder + "/data.npz")
out = {}
for kind in ("masked", "plain"):
    model = load_model(f"{folder}/{kind}.keras")
    out[kind] = model.predict(data["x"], verbose=0)
    out[kind + "_classes"] = [type(layer).__name__ for layer in model.layers]
    for layer in model.layers:
        if hasattr(layer, "scores"):
            out[layer.name + "_mask"] = np.asarray(layer.mask)
            out[layer.name + "_scores"] = np.asarray(layer.scores)
            out[layer.name + "_density"] = layer.density
    before = [np.array(v) for v in model.trainable_variables]
    model.compile("sgd", "mse")
    model.train_on_batch(data["x"], data["y"])
    moved = [np.any(b != np.array(v)) for b, v in zip(before, model.trainable_variables)]
    out[kind + "_moved"] = np.array(moved)
np.savez(folder + "/out.npz", **out)
"""


def net():
    layers = [
        keras.Input([8, 8, 3]),
        L.Conv2D(4, 3, activation="relu", name="conv2d"),
        L.DepthwiseConv2D(3, name="depthwise"),
        L.Reshape([16, 4]),
        L.Conv1D(4, 3, padding="causal", name="conv1d"),
        L.Flatten(),
        L.Dense(5, name="dense"),
    ]
    return keras.Sequential(layers)


@pytest.fixture
def pruned():
    keras.utils.set_random_seed(0)
    model = hydra_tf.mask_model(net())
    rng = np.random.default_rng(0)
    for layer in masked_layers(model):
        layer.scores.assign(rng.normal(size=layer.scores.shape))
    hydra_tf.set_density(model, np.float32(0.25))
    return model


def test_saved_models_load_and_train_in_a_new_process(pruned, tmp_path):
    rng = np.random.default_rng(1)
    x = rng.random((4, 8, 8, 3)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, y=rng.random((4, 5)))
    plain = hydra_tf.strip_masks(pruned)
    pruned.save(tmp_path / "masked.keras")
    plain.save(tmp_path / "plain.keras")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], check=True, timeout=120, env=environment
    )
    out = np.load(tmp_path / "out.npz")
    expected = pruned.predict(x, verbose=0)
    np.testing.assert_array_equal(out["masked"], expected)
    np.testing.assert_array_equal(out["plain"], expected)
    kinds = ["MaskedConv2D", "MaskedDepthwiseConv2D", "Reshape", "MaskedConv1D", "Flatten"]
    assert out["masked_classes"].tolist() == [*kinds, "MaskedDense"]
    assert out["plain_classes"].tolist() == [
        kind.removeprefix("Masked") for kind in [*kinds, "Dense"]
    ]
    for layer in masked_layers(pruned):
        np.testing.assert_array_equal(out[f"{layer.name}_mask"], layer.mask)
        np.testing.assert_array_equal(out[f"{layer.name}_scores"], layer.scores)
        assert out[f"{layer.name}_density"] == 0.25
    assert out["masked_moved"].all()
    assert out["masked_moved"].size == 12  # kernel, bias and scores of four layers
    assert out["plain_moved"].all()


def test_weights_files_contain_scores_and_masks(pruned, tmp_path):
    pruned.save_weights(tmp_path / "a.weights.h5")
    twin = hydra_tf.mask_model(net())
    twin.load_weights(tmp_path / "a.weights.h5")
    for saved, loaded in zip(pruned.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(saved, loaded)
    x = np.random.default_rng(2).random((2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(twin(x), pruned(x))


def test_a_weights_file_of_the_plain_network_is_refused(pruned, tmp_path):
    net().save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match=r"no scores and masks for .*net\.load_weights"):
        pruned.load_weights(tmp_path / "plain.weights.h5")
