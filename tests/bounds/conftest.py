"""Small networks of every kind with random biases and statistics."""

import keras
import numpy as np
import pytest
from keras import layers

import hydra_tf

SHAPE = (6, 6, 2)


def plain():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(5, 3, padding="same"),
            layers.LeakyReLU(negative_slope=0.1),
            layers.Flatten(),
            layers.Dense(8, activation="leaky_relu"),
            layers.Dense(4),
        ]
    )


def normed():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(2.0, offset=-1.0),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            layers.BatchNormalization(scale=False),
            layers.Activation("relu"),
            layers.Dropout(0.5),
            layers.AveragePooling2D(3, strides=1, padding="same"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def residual():
    images = keras.Input(SHAPE)
    x = layers.ReLU()(layers.Conv2D(4, 3, padding="same")(images))
    shared = layers.Conv2D(4, 3, padding="same")
    for _ in range(2):  # the second unit uses the same convolution
        y = layers.ReLU()(layers.BatchNormalization()(shared(x)))
        x = layers.Add()([x, layers.Conv2D(4, 1)(y)])
    x = layers.ReLU()(layers.Concatenate()([x, layers.Subtract()([x, y])]))
    return keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def pooled():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, padding="same"),
            layers.MaxPooling2D(3, strides=2, padding="same"),
            layers.Conv2D(6, 2, activation="relu"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(4),
        ]
    )


def masked():
    inner = keras.Sequential(
        [keras.Input((16, 2)), layers.Conv1D(4, 3, padding="causal"), layers.ReLU()]
    )
    images = keras.Input(SHAPE)
    x = layers.Cropping2D(1)(images)
    x = inner(layers.Reshape((16, 2))(x))
    x = layers.Flatten()(layers.Permute((2, 1))(x))
    net = keras.Model(images, layers.Dense(4)(layers.Dense(12, activation="relu")(x)))
    net = hydra_tf.mask_model(net)
    hydra_tf.set_density(net, 0.5)
    return net


def merged():
    """Sums of inputs of different rank or broadcast inputs; four positions for four images."""
    images = keras.Input(SHAPE)
    x = layers.Conv2D(4, 1)(layers.Cropping2D(1)(images))
    means = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
    x = layers.ReLU()(layers.Add()([x, means]))
    x = layers.ReLU()(layers.Subtract()([layers.Dense(4)(means), layers.Conv2D(4, 1)(x)]))
    x += layers.Conv2D(4, 4)(x)  # [4, 4, 4] and [1, 1, 4]
    return keras.Model(images, layers.Dense(4)(layers.Flatten()(x)))


def grouped():
    """Grouped convolutions, with and without strides."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, strides=2, groups=2, activation="relu"),
            layers.Conv2D(8, 2, padding="same", groups=4, activation="relu"),
            layers.Conv2D(6, 2, strides=2, padding="same", groups=2),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def operated():
    """A nested model of two inputs, operations instead of layers, and inputs passed by name."""
    one, two = keras.Input((6, 6, 3)), keras.Input((6, 6, 3))
    inner = keras.Model([one, two], keras.ops.subtract(x2=one, x1=layers.ReLU()(two)))
    images = keras.Input(SHAPE)
    x = keras.activations.relu(layers.Conv2D(3, 3, padding="same")(inputs=images))
    x = inner([x, layers.Conv2D(3, 1)(keras.ops.relu(x))])
    x = keras.activations.relu(inner(inputs=[layers.Conv2D(3, 1)(x), x]), negative_slope=0.5)
    x = keras.ops.leaky_relu(layers.Conv2D(4, 3, strides=2)(x), 0.1)
    return keras.Model(images, layers.Dense(4)(layers.Flatten()(x)))


NETS = (plain, normed, residual, pooled, masked, merged, grouped, operated)
MAKERS = {make.__name__: make for make in NETS}


def randomise(net, seed=0):
    """Assign random biases and BatchNorm statistics, as training might leave them."""
    rng = np.random.default_rng(seed)
    for weight in net.weights:
        shape = weight.shape
        if weight.name in ("bias", "beta", "moving_mean"):
            weight.assign(rng.normal(0, 0.3, shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.3, 1.5, shape))
    return net


@pytest.fixture(scope="session")
def build_net():
    """Return a function that builds a network by name and seed, once each."""
    cache = {}

    def build(name, seed=0):
        if (name, seed) not in cache:
            keras.utils.set_random_seed(seed)
            cache[name, seed] = randomise(MAKERS[name](), seed)
        return cache[name, seed]

    return build


@pytest.fixture(scope="session")
def batch():
    """Four images, one of them of extreme pixels, and labels."""
    x = np.random.default_rng(3).random((4, *SHAPE)).astype("float32")
    x[3] = x[3] > 0.5
    return x, np.array([0, 1, 2, 3])


@pytest.fixture(scope="session")
def trained():
    """A network trained naturally on digits, and 32 other digits."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).reshape(-1, 8, 8, 1).astype("float32"), y[order].astype("int32")
    he = keras.initializers.HeNormal(1)
    net = keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            layers.Conv2D(8, 3, kernel_initializer=he),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, strides=2, activation="relu", kernel_initializer=he),
            layers.Flatten(),
            layers.Dense(16, activation="relu", kernel_initializer=he),
            layers.Dense(10, kernel_initializer=he),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    net.fit(x[32:], y[32:], batch_size=64, epochs=6, shuffle=False, verbose=0)
    assert (np.argmax(net.predict(x[:32], verbose=0), -1) == y[:32]).mean() > 0.9
    return net, x[:32], y[:32]
