"""Residual networks (He et al., CVPR 2016) for photographs and for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hydra_tf.core.lazy import keras
from hydra_tf.models.zoo.base import MODELS, Network
from hydra_tf.models.zoo.wiring import Wiring

# Number of units in each of the four stages (64, 128, 256 and 512 channels), and whether units
# are bottlenecks of three convolutions.
STAGES = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}
_FILTERS = (64, 128, 256, 512)
_SMALL = 64  # images up to this size are not reduced before the first stage


@MODELS.register("resnet18", depth=18)
@MODELS.register("resnet34", depth=34)
@MODELS.register("resnet50", depth=50)
@dataclass(frozen=True)
class ResNet(Network):
    """ResNet-18, 34 or 50, with the stride of a bottleneck in its 3x3 convolution (v1.5).

    It starts with a 7x7 convolution of stride 2 and max pooling or, if neither side of the
    images exceeds 64 pixels, with a 3x3 convolution, as is usual for CIFAR-10.

    Args:
        depth: number of convolutional and fully connected layers: 18, 34 or 50.

    Example:
        >>> ResNet(depth=18)((32, 32, 3), 10).output_shape
        (None, 10)
    """

    depth: Literal[18, 34, 50] = 50

    least_size: ClassVar[int] = 8

    def __post_init__(self) -> None:
        if self.depth not in STAGES:
            raise ValueError(f"The depth of a ResNet must be 18, 34 or 50, not {self.depth}.")

    @property
    def title(self) -> str:
        """Name of the Keras model."""
        return f"resnet{self.depth}"

    def connect(self, wire: Wiring, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Return the logits; see :class:`Network`."""
        small = max(x.shape[1:3]) <= _SMALL
        kernel, stride = (3, 1) if small else (7, 2)
        x = wire.conv(x, "conv1", _FILTERS[0], kernel=kernel, stride=stride, bias=False)
        x = wire.relu(wire.norm(x, "bn1"), "relu1")
        if not small:
            x = wire.max_pool(x, "pool1", size=3, stride=2)
        units, bottleneck = STAGES[self.depth]
        unit = _bottleneck if bottleneck else _basic
        for stage, (count, filters) in enumerate(zip(units, _FILTERS, strict=True), start=1):
            for i in range(1, count + 1):
                stride = 2 if stage > 1 and i == 1 else 1
                x = unit(wire, x, f"stage{stage}_unit{i}", filters, stride)
        x = keras.layers.GlobalAveragePooling2D(name="average")(x)
        return wire.dense(x, "logits", num_classes)


def _basic(
    wire: Wiring, x: keras.KerasTensor, name: str, filters: int, stride: int
) -> keras.KerasTensor:
    """Add two 3x3 convolutions to the input or its projection."""
    y = wire.conv(x, f"{name}_conv1", filters, stride=stride, bias=False)
    y = wire.relu(wire.norm(y, f"{name}_bn1"), f"{name}_relu1")
    y = wire.norm(wire.conv(y, f"{name}_conv2", filters, bias=False), f"{name}_bn2")
    return _add_input(wire, x, y, name, stride, "relu2")


def _bottleneck(
    wire: Wiring, x: keras.KerasTensor, name: str, filters: int, stride: int
) -> keras.KerasTensor:
    """Add a 3x3 convolution between two 1x1 convolutions, the last with four times the channels."""
    y = wire.conv(x, f"{name}_conv1", filters, kernel=1, bias=False)
    y = wire.relu(wire.norm(y, f"{name}_bn1"), f"{name}_relu1")
    y = wire.conv(y, f"{name}_conv2", filters, stride=stride, bias=False)
    y = wire.relu(wire.norm(y, f"{name}_bn2"), f"{name}_relu2")
    y = wire.norm(wire.conv(y, f"{name}_conv3", 4 * filters, kernel=1, bias=False), f"{name}_bn3")
    return _add_input(wire, x, y, name, stride, "relu3")


def _add_input(
    wire: Wiring, x: keras.KerasTensor, y: keras.KerasTensor, name: str, stride: int, last: str
) -> keras.KerasTensor:
    """Add the input of a unit, projected if the shape changes, and apply ReLU."""
    filters = y.shape[-1]
    if stride > 1 or x.shape[-1] != filters:
        x = wire.conv(x, f"{name}_shortcut", filters, kernel=1, stride=stride, bias=False)
        x = wire.norm(x, f"{name}_shortcut_bn")
    return wire.relu(keras.layers.Add(name=f"{name}_add")([x, y]), f"{name}_{last}")
