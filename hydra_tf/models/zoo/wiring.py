"""Layers with the padding, initialisation and names of the reference networks.

The published networks were written in PyTorch. Its defaults are reproduced here where Keras
differs, so that weights trained in PyTorch give the same outputs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from hydra_tf.core.lazy import keras


@dataclass(frozen=True)
class Wiring:
    """Creates the layers of one network and connects them.

    Args:
        seed: the initial weights are a function of it and of the layer's name; None draws
            random weights.

    Example:
        >>> images = keras.Input([8, 8, 1])
        >>> Wiring(seed=0).conv(images, "conv1", 4, kernel=4, stride=2).shape
        (None, 4, 4, 4)
    """

    seed: int | None

    def conv(
        self,
        x: keras.KerasTensor,
        name: str,
        filters: int,
        kernel: int = 3,
        stride: int = 1,
        bias: bool = True,
    ) -> keras.KerasTensor:
        """Convolve, padded by (kernel - 1) // 2 zeros on every side.

        Initialised with Kaiming normal weights on the outgoing connections (He et al., 2015)
        and biases of 0.
        """
        x, padding = _padded(x, name, kernel, stride)
        return keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding=padding,
            use_bias=bias,
            kernel_initializer=self._scaled(name, 2.0, "fan_out", "untruncated_normal"),
            name=name,
        )(x)

    def depthwise(
        self, x: keras.KerasTensor, name: str, kernel: int = 3, stride: int = 1
    ) -> keras.KerasTensor:
        """Convolve each channel on its own, padded as in :meth:`conv`, without a bias.

        Initialised with normal weights of variance 2 / kernel**2.
        """
        x, padding = _padded(x, name, kernel, stride)
        initializer = keras.initializers.RandomNormal(
            stddev=2.0**0.5 / kernel, seed=self._seed(name)
        )
        return keras.layers.DepthwiseConv2D(
            kernel,
            strides=stride,
            padding=padding,
            use_bias=False,
            depthwise_initializer=initializer,
            name=name,
        )(x)

    def max_pool(
        self, x: keras.KerasTensor, name: str, size: int, stride: int
    ) -> keras.KerasTensor:
        """Take the maximum over windows, padded by (size - 1) // 2 zeros on every side.

        Padding with zeros requires inputs that are never negative, such as the output of a ReLU.
        """
        x, padding = _padded(x, name, size, stride)
        return keras.layers.MaxPooling2D(size, stride, padding, name=name)(x)

    def norm(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Normalise over the batch; each batch has weight 0.1 in the moving averages."""
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

    def relu(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Apply ReLU."""
        return keras.layers.ReLU(name=name)(x)

    def dense(
        self, x: keras.KerasTensor, name: str, units: int, stddev: float | None = None
    ) -> keras.KerasTensor:
        """Connect fully, with biases of 0.

        Args:
            x: Keras tensor [batch, inputs].
            name: name of the layer.
            units: number of outputs.
            stddev: standard deviation of normal weights; None for uniform weights within
                1/sqrt(inputs).
        """
        if stddev is None:
            initializer = self._scaled(name, 1 / 3, "fan_in", "uniform")
        else:
            initializer = keras.initializers.RandomNormal(stddev=stddev, seed=self._seed(name))
        return keras.layers.Dense(units, kernel_initializer=initializer, name=name)(x)

    def _seed(self, name: str) -> int | None:
        """Return the seed of a layer: from its name, so that deeper networks share layers."""
        return None if self.seed is None else zlib.crc32(f"{self.seed}/{name}".encode())

    def _scaled(
        self,
        name: str,
        scale: float,
        mode: Literal["fan_in", "fan_out"],
        distribution: Literal["untruncated_normal", "uniform"],
    ) -> keras.initializers.Initializer:
        return keras.initializers.VarianceScaling(scale, mode, distribution, seed=self._seed(name))


def _padded(
    x: keras.KerasTensor, name: str, kernel: int, stride: int
) -> tuple[keras.KerasTensor, Literal["same", "valid"]]:
    """Return an input and the padding of a layer, so that (kernel - 1) // 2 zeros surround it.

    Keras pads even sizes at the bottom and right only, which shifts every window; a layer of zeros
    is added there.
    """
    padding = (kernel - 1) // 2
    same = all(_same_is_symmetric(n, kernel, stride, padding) for n in x.shape[1:3])
    if padding and not same:
        x = keras.layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    return x, "same" if padding and same else "valid"


def _same_is_symmetric(size: int, kernel: int, stride: int, padding: int) -> bool:
    """Return whether "same" in Keras places windows like symmetric padding.

    Example:
        >>> _same_is_symmetric(32, kernel=3, stride=2, padding=1)
        False
    """
    outputs = -(-size // stride)
    missing = max((outputs - 1) * stride + kernel - size, 0)
    return outputs == (size + 2 * padding - kernel) // stride + 1 and missing // 2 == padding
