"""Random networks with random weights, pruned at random, to test graph transformations on."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from hydra_tf.core.keras_models import all_layers

Tensor = keras.KerasTensor


def _conv(rng: np.random.Generator, x: Tensor) -> Tensor:
    channels = x.shape[-1]
    if rng.integers(3) == 0:
        x = layers.ZeroPadding2D(1)(x)
    groups = int(rng.choice([g for g in (1, 2, 3) if channels % g == 0]))
    conv = layers.Conv2D(
        int(rng.integers(1, 4)) * 6,
        int(rng.choice([1, 3])) if x.shape[1] > 3 else 1,
        strides=int(rng.choice([1, 2])) if x.shape[1] > 5 else 1,
        padding=str(rng.choice(["same", "valid"])),
        groups=groups,
        use_bias=bool(rng.integers(2)),
        activation=str(rng.choice(["linear", "relu", "tanh"])),
    )
    return conv(x)


def _depthwise(rng: np.random.Generator, x: Tensor) -> Tensor:
    padding = str(rng.choice(["same", "valid"])) if x.shape[1] > 3 else "same"
    multiplier = int(rng.integers(1, 3))
    depthwise = layers.DepthwiseConv2D(
        3, padding=padding, depth_multiplier=multiplier, use_bias=bool(rng.integers(2))
    )
    return depthwise(x)


def _normalise(rng: np.random.Generator, x: Tensor) -> Tensor:
    scaled, centred = (bool(rng.integers(4)) for _ in range(2))
    return layers.BatchNormalization(scale=scaled, center=centred)(x)


def _activate(rng: np.random.Generator, x: Tensor) -> Tensor:
    kinds = [layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout, layers.PReLU]
    kind = kinds[rng.integers(len(kinds))]
    return kind(0.5)(x) if kind is layers.Dropout else kind()(x)


def _pool(rng: np.random.Generator, x: Tensor) -> Tensor:
    if x.shape[1] < 4:
        return layers.ZeroPadding2D(1)(x)
    kind = layers.MaxPooling2D if rng.integers(2) else layers.AveragePooling2D
    return kind(3, strides=2, padding=str(rng.choice(["same", "valid"])))(x)


def _same_size(rng: np.random.Generator, x: Tensor) -> Tensor:
    return layers.Conv2D(x.shape[-1], 3, padding="same", use_bias=bool(rng.integers(2)))(x)


def _residual(rng: np.random.Generator, x: Tensor) -> Tensor:
    y = _same_size(rng, _activate(rng, _normalise(rng, x)))
    kinds = [layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum]
    number = rng.integers(len(kinds) + 1)
    return x + y if number == len(kinds) else kinds[number]()([x, y])


def _concatenate(rng: np.random.Generator, x: Tensor) -> Tensor:
    return layers.Concatenate()([x, layers.Conv2D(6, 3, padding="same")(x), x])


def _share(rng: np.random.Generator, x: Tensor) -> Tensor:
    shared = layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")
    return shared(shared(x))


def _nest(rng: np.random.Generator, x: Tensor) -> Tensor:
    inside = keras.Input(x.shape[1:])
    return keras.Model(inside, _residual(rng, _activate(rng, inside)))(x)


_BLOCKS = [
    _conv, _conv, _depthwise, _normalise, _activate, _pool, _residual, _residual, _concatenate,
    _share, _nest,
]  # fmt: skip


def random_network(seed: int, blocks: int) -> keras.Model:
    """Return a network of random blocks on [8, 8, 3] images, with random weights."""
    rng = np.random.default_rng(seed)
    images = keras.Input([8, 8, 3])
    x = layers.Conv2D(12, 3, padding="same")(images)
    for _ in range(blocks):
        block = _BLOCKS[rng.integers(len(_BLOCKS))]
        x = block(rng, x) if x.shape[-1] <= 60 else layers.Conv2D(12, 1)(x)
    if rng.integers(3) == 0:
        x = layers.Reshape((-1, x.shape[-1]))(x)
    x = layers.Flatten()(x) if rng.integers(2) or len(x.shape) < 4 else _pooled(rng, x)
    x = layers.Dense(9, activation="relu", use_bias=bool(rng.integers(2)))(x)
    net = keras.Model(images, layers.Dense(4)(x))
    for weight in net.weights:
        if "seed" not in weight.path:
            low = 0.5 if "variance" in weight.path else -1.0
            weight.assign(rng.uniform(low, 1.5, weight.shape))
    for layer in all_layers(net):
        if hasattr(layer, "kernel"):  # outputs of moderate size
            layer.kernel.assign(rng.normal(size=layer.kernel.shape) / 4)
    return net


def _pooled(rng: np.random.Generator, x: Tensor) -> Tensor:
    kind = layers.GlobalMaxPooling2D if rng.integers(2) else layers.GlobalAveragePooling2D
    return kind()(x)


def prune_filters(net: keras.Model, seed: int, share: float) -> None:
    """Set a share of the filters of each kernel but the last one to zero, biases stay."""
    rng = np.random.default_rng(seed)
    kernels = [layer for layer in all_layers(net) if hasattr(layer, "kernel")]
    for layer in kernels[:-1]:
        kernel = layer.kernel.numpy()
        flat = kernel.reshape(-1, kernel.shape[-1])
        flat[:, rng.random(kernel.shape[-1]) < share] = 0
        layer.kernel.assign(kernel)


def prune_weights(net: keras.Model, seed: int, density: float) -> None:
    """Keep a share of the weights of each kernel, chosen at random, and at least one."""
    rng = np.random.default_rng(seed)
    for layer in all_layers(net):
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            kept = rng.random(kernel.shape) < density
            kept.ravel()[rng.integers(kept.size)] = True
            layer.kernel.assign(kernel * kept)
