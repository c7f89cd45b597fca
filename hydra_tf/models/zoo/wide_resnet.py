"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016) with pre-activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.core.lazy import keras
from hydra_tf.models.zoo.base import MODELS, Network
from hydra_tf.models.zoo.wiring import Wiring


@MODELS.register()
@dataclass(frozen=True)
class WideResNet(Network):
    """WRN-depth-width: three blocks of residual units with 16, 32 and 64 times `width` channels.

    Args:
        depth: 6n + 4, where n is the number of units in a block: 10, 16, 22, 28, 34, 40 ...
        width: factor of the number of channels.

    Example:
        >>> WideResNet(depth=10, width=1)((32, 32, 3), 10).name
        'wide_resnet_10_1'
    """

    depth: int = 28
    width: int = 4

    least_size: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(
                "The depth of a wide residual network must be 6n + 4 with n units per block (10, "
                f"16, 22, 28, 34, 40 ...), not {self.depth}."
            )
        if self.width < 1:
            raise ValueError(f"The width must be a factor of at least 1, not {self.width}.")

    @property
    def title(self) -> str:
        """Name of the Keras model."""
        return f"wide_resnet_{self.depth}_{self.width}"

    def connect(self, wire: Wiring, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Return the logits; see :class:`Network`."""
        x = wire.conv(x, "conv1", 16, bias=False)
        for block, (filters, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
            for unit in range(1, (self.depth - 4) // 6 + 1):
                name = f"block{block}_unit{unit}"
                x = _unit(wire, x, name, filters * self.width, stride if unit == 1 else 1)
        x = wire.relu(wire.norm(x, "bn1"), "relu1")
        x = keras.layers.GlobalAveragePooling2D(name="average")(x)
        return wire.dense(x, "logits", num_classes)


def _unit(
    wire: Wiring, x: keras.KerasTensor, name: str, filters: int, stride: int
) -> keras.KerasTensor:
    """Add two convolutions, each after BatchNorm and ReLU, to the input or its projection."""
    y = wire.relu(wire.norm(x, f"{name}_bn1"), f"{name}_relu1")
    if x.shape[-1] != filters:
        x = wire.conv(y, f"{name}_shortcut", filters, kernel=1, stride=stride, bias=False)
    y = wire.conv(y, f"{name}_conv1", filters, stride=stride, bias=False)
    y = wire.relu(wire.norm(y, f"{name}_bn2"), f"{name}_relu2")
    y = wire.conv(y, f"{name}_conv2", filters, bias=False)
    return keras.layers.Add(name=f"{name}_add")([x, y])
