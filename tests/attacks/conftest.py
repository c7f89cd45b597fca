"""A small convolutional network trained on real digits, once for all attack tests."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.losses import cross_entropy


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


@pytest.fixture(scope="session")
def robust(digits):
    """A network trained against PGD in the Linf ball, and 400 digits it has not seen."""
    x, y = digits
    he = keras.initializers.HeNormal(1)
    net = keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            keras.layers.Conv2D(8, 3, activation="relu", kernel_initializer=he),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu", kernel_initializer=he),
            keras.layers.Dense(10, kernel_initializer=he),
        ]
    )
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(net.trainable_variables)

    @tf.function
    def step(x, y, epsilon):
        kwargs = {"norm": "linf", "epsilon": epsilon, "step_size": epsilon / 3, "steps": 5}
        x = ascend(net, x, x, lambda logits: cross_entropy(y, logits), **kwargs)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy(y, net(x, training=True)))
        optimizer.apply(tape.gradient(loss, net.trainable_variables))

    for epoch in range(12):
        epsilon = tf.constant(0.15 * min(1, (epoch + 1) / 6))
        for at in range(400, len(x) - 63, 64):
            step(x[at : at + 64], y[at : at + 64], epsilon)
    right = np.argmax(net.predict(x[:400], verbose=0), -1) == y[:400]
    assert right.mean() > 0.9
    return net, x[:400], y[:400]


@pytest.fixture(scope="session")
def masked(robust):
    """The robust network with logits so large that the cross-entropy has no gradient left.

    Its predictions are the same everywhere, and so is its true robust accuracy.
    """
    net, x, y = robust
    steep = keras.Sequential([keras.Input([8, 8, 1]), net, keras.layers.Rescaling(1e4)])
    return steep, x, y
