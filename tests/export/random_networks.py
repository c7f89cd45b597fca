"""Random networks with the layers and the zeros that a sparse encoder can meet."""

from __future__ import annotations

import keras
import numpy as np

ZEROS = ("element", "2:4", "blocks", "channels")


def with_zeros(kernel: np.ndarray, zeros: str, density: float, rng: np.random.Generator):
    """Return a kernel with zeros of a kind: its inputs are the axis before the last."""
    inputs = kernel.shape[-2]
    kept = rng.random(kernel.shape) < density
    if zeros == "2:4" and inputs % 4 == 0:
        groups = np.moveaxis(rng.random(kernel.shape), -2, -1).reshape(-1, 4)
        kept = groups.argsort(-1).argsort(-1) < 2
        moved = np.moveaxis(kernel, -2, -1).shape
        kept = np.moveaxis(kept.reshape(moved), -1, -2)
    elif zeros == "blocks" and inputs % 16 == 0:
        shape = (*kernel.shape[:-2], inputs // 16, kernel.shape[-1])
        kept = np.repeat(rng.random(shape) < density, 16, axis=-2)
    elif zeros == "channels":
        kept = np.broadcast_to(rng.random(kernel.shape[-1]) < density, kernel.shape)
    return kernel * kept


def random_network(seed: int) -> keras.Model:
    """Return a network on images [12, 12, 4 or 16] of layers drawn at random."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    layers = keras.layers

    def convolution():
        groups = int(rng.choice([1, 1, 2]))
        return layers.Conv2D(
            int(rng.choice([16, 32, 272])),
            int(rng.choice([1, 3])),
            padding=str(rng.choice(["same", "valid"])),
            dilation_rate=int(rng.choice([1, 1, 2])),
            groups=groups,
            use_bias=bool(rng.integers(2)),
            activation="relu",
        )

    def wide_convolution():
        return keras.Sequential([layers.Conv2D(300, 1), layers.Conv2D(520, 1, activation="relu")])

    def depthwise():
        return layers.DepthwiseConv2D(3, depth_multiplier=int(rng.choice([1, 2])), padding="same")

    def separable():
        return layers.SeparableConv2D(16, 3, padding="same", activation="relu")

    images = keras.Input([12, 12, int(rng.choice([4, 16]))])
    x = images
    makers = [convolution, convolution, wide_convolution, depthwise, separable]
    for maker in rng.choice(len(makers), 3):
        x = makers[maker]()(x)
    x = layers.AveragePooling2D(2)(x)
    if rng.integers(2):
        shared = layers.Conv2D(x.shape[-1], 1, activation="relu")
        x = layers.Add()([x, shared(shared(x))])
    if rng.integers(3) == 0:
        # A dense layer on a tensor of four axes.
        x = layers.Dense(320, activation="relu")(x)
    x = layers.Flatten()(x)
    if rng.integers(2):
        x = layers.Dense(int(rng.choice([24, 300])), activation="relu")(x)
        shared = layers.Dense(x.shape[-1], use_bias=False)
        x = layers.Add()([shared(x), shared(layers.ReLU()(x))])
    net = keras.Model(images, layers.Dense(7)(x))
    zeros = str(rng.choice(ZEROS))
    net.set_weights(
        [
            with_zeros(weight, zeros, float(rng.choice([0.005, 0.05, 0.2, 0.5])), rng)
            if weight.ndim > 1
            else 0.1 * rng.normal(size=weight.shape)
            for weight in net.get_weights()
        ]
    )
    return net
