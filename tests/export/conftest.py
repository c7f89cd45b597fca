"""Small networks with zeros in their kernels, and an independent TFLite interpreter."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter


def mnist_cnn_like(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input([28, 28, 1]),
            layers.Conv2D(16, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 4, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )


def dense_net(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    net = keras.Sequential(
        [keras.Input([12]), layers.Dense(20, activation="relu"), layers.Dense(5)]
    )
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        layer.bias.assign(rng.normal(size=layer.bias.shape))
    return net


def plant_zeros(net: keras.Model, zeros: float) -> tuple[int, int]:
    """Set the smallest weights of every kernel to 0; return (zeros, weights)."""
    planted = weights = 0
    for layer in net.layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel = layer.kernel.numpy()
        count = round(zeros * kernel.size)
        kernel.ravel()[np.argsort(np.abs(kernel), axis=None)[:count]] = 0
        layer.kernel.assign(kernel)
        planted, weights = planted + count, weights + kernel.size
    return planted, weights


def interpreter_of(path: object) -> Interpreter:
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    return interpreter


def run(path: object, images: np.ndarray) -> np.ndarray:
    interpreter = interpreter_of(path)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert source["dtype"] is target["dtype"] is np.float32
    rows = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"]))
    return np.concatenate(rows)


def images_for(net: keras.Model, count: int = 40) -> np.ndarray:
    return np.random.default_rng(7).random((count, *net.input_shape[1:]), dtype=np.float32)


@pytest.fixture(scope="session")
def nets() -> types.SimpleNamespace:
    """Return the functions above."""
    functions = (mnist_cnn_like, dense_net, plant_zeros, interpreter_of, run, images_for)
    return types.SimpleNamespace(**{function.__name__: function for function in functions})
