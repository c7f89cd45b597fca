"""Masks and outputs against the TensorFlow Model Optimization Toolkit (tfmot)."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.sparsity import masked_layers

# tfmot needs Keras 2 and changes tf.keras globally, so it runs in another process.
CODE = """
import sys
import numpy as np
import tf_keras
import tensorflow_model_optimization as tfmot
rng = np.random.default_rng(0)
schedule = tfmot.sparsity.keras.ConstantSparsity(0.75, begin_step=0, frequency=1)
net = tf_keras.Sequential([
    tf_keras.layers.Conv2D(8, 3, activation="relu", input_shape=(6, 6, 2)),
    tf_keras.layers.Flatten(),
    tf_keras.layers.Dense(5),
])
net.set_weights([rng.normal(size=w.shape).astype("float32") for w in net.get_weights()])
before = net.get_weights()
pruned = tfmot.sparsity.keras.prune_low_magnitude(net, pruning_schedule=schedule)
pruned.compile(tf_keras.optimizers.SGD(0.0), "mse")
x = rng.random((4, 6, 6, 2)).astype("float32")
pruned.fit(x, np.zeros((4, 5)), epochs=2, verbose=0,
           callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
stripped = tfmot.sparsity.keras.strip_pruning(pruned)
arrays = {f"before{i}": w for i, w in enumerate(before)}
arrays.update({f"after{i}": w for i, w in enumerate(stripped.get_weights())})
np.savez(sys.argv[1], x=x, y=stripped.predict(x, verbose=0), **arrays)
"""


def test_magnitude_pruning_equals_tfmot(tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    file = tmp_path / "tfmot.npz"
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    subprocess.run([sys.executable, "-c", CODE, str(file)], env=environment, check=True, timeout=90)
    tfmot = np.load(file)

    layers = [
        keras.Input([6, 6, 2]),
        keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(5),
    ]
    twin = keras.Sequential(layers)
    twin.set_weights([tfmot[f"before{i}"] for i in range(4)])
    masked = hydra_tf.mask_model(twin)
    hydra_tf.set_density(masked, 0.25)
    for layer, i in zip(masked_layers(masked), (0, 2), strict=True):
        np.testing.assert_array_equal(np.asarray(layer.mask), tfmot[f"after{i}"] != 0)
    np.testing.assert_allclose(masked(tfmot["x"]), tfmot["y"], rtol=0, atol=1e-5)
