"""A small convolutional network trained on real digits, once for all attack tests."""

import keras
import numpy as np
import pytest


@pytest.fixture(scope="session")
def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 16).reshape(-1, 8, 8, 1).astype("float32"), y[order].astype("int32")


@pytest.fixture(scope="session")
def trained(digits):
    """The network and 64 digits that it has not seen."""
    x, y = digits
    he = keras.initializers.HeNormal(1)
    net = keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            keras.layers.Conv2D(8, 3, activation="relu", kernel_initializer=he),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu", kernel_initializer=he),
            keras.layers.Dense(10, kernel_initializer=he),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    net.fit(x[64:], y[64:], batch_size=64, epochs=6, shuffle=False, verbose=0)
    right = np.argmax(net.predict(x[:64], verbose=0), -1) == y[:64]
    assert right.mean() > 0.9  # an attack on an untrained network would show nothing
    return net, x[:64], y[:64]
