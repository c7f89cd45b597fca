"""VGG (Simonyan and Zisserman, ICLR 2015) with BatchNorm, as HYDRA adapts it to 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hydra_tf.core.lazy import keras
from hydra_tf.models.zoo.base import MODELS, Network
from hydra_tf.models.zoo.wiring import Wiring

# Number of 3x3 convolutions in each of the five stages, of 64, 128, 256, 512, 512 channels.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FILTERS = (64, 128, 256, 512, 512)


@MODELS.register("vgg11_bn", depth=11)
@MODELS.register("vgg13_bn", depth=13)
@MODELS.register("vgg16_bn", depth=16)
@MODELS.register("vgg19_bn", depth=19)
@dataclass(frozen=True)
class VGG(Network):
    """Stages of 3x3 convolutions with pooling between them, and layers of 256 and 256.

    No pooling follows the fifth stage; its output is averaged to 2x2, which is its size already
    for a 32x32 image.

    Args:
        depth: number of convolutional and fully connected layers: 11, 13, 16 or 19.

    Example:
        >>> VGG(depth=11)((32, 32, 3), 10).output_shape
        (None, 10)
    """

    depth: Literal[11, 13, 16, 19] = 16

    least_size: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if self.depth not in STAGES:
            raise ValueError(f"The depth of a VGG must be 11, 13, 16 or 19, not {self.depth}.")

    @property
    def title(self) -> str:
        """Name of the Keras model."""
        return f"vgg{self.depth}_bn"

    def connect(self, wire: Wiring, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Return the logits; see :class:`Network`."""
        i = 0
        for stage, (convs, filters) in enumerate(zip(STAGES[self.depth], _FILTERS, strict=True)):
            if stage:
                x = keras.layers.MaxPooling2D(2, name=f"pool{stage}")(x)
            for _ in range(convs):
                i += 1
                x = wire.norm(wire.conv(x, f"conv{i}", filters, bias=False), f"bn{i}")
                x = wire.relu(x, f"relu{i}")
        x = keras.layers.Flatten(name="flatten")(_average_to_2x2(x))
        x = wire.relu(wire.dense(x, "fc1", 256, stddev=0.01), f"relu{i + 1}")
        x = wire.relu(wire.dense(x, "fc2", 256, stddev=0.01), f"relu{i + 2}")
        return wire.dense(x, "logits", num_classes, stddev=0.01)


def _average_to_2x2(x: keras.KerasTensor) -> keras.KerasTensor:
    """Average over the four quarters of the image, which overlap by a row if its size is odd.

    A size of one pixel remains.

    Example:
        >>> _average_to_2x2(keras.Input([5, 8, 1])).shape
        (None, 2, 2, 1)
    """
    height, width = x.shape[1:3]
    if max(height, width) <= 2:
        return x
    return keras.layers.AveragePooling2D(
        pool_size=(-(-height // 2), -(-width // 2)),
        strides=(max(1, height // 2), max(1, width // 2)),
        name="average",
    )(x)
