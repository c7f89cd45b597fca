"""A network of depthwise and 1x1 convolutions for sparse inference on mobile processors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.core.lazy import keras
from hydra_tf.models.zoo.base import MODELS, Network
from hydra_tf.models.zoo.wiring import Wiring

# Channels and stride of each separable convolution, at width 1.
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1))


@MODELS.register()
@dataclass(frozen=True)
class EdgeNet(Network):
    """A 3x3 convolution of stride 2 and separable convolutions, each with BatchNorm and ReLU.

    The layers are those of MobileNet (Howard et al., 2017), in the pattern that the sparse kernels
    of XNNPACK run: a 3x3 convolution of stride 2 on three channels first, then 3x3 depthwise and
    1x1 convolutions only, padded by one pixel on every side, and the mean over the image last.
    Images of one channel run with dense kernels.

    Args:
        width: factor of the number of channels, above 0.

    Raises:
        ValueError: for a width that is not above 0.

    Example:
        >>> EdgeNet()((32, 32, 3), 10).count_params()
        209610
    """

    width: float = 1.0

    least_size: ClassVar[int] = 8

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"The width must be a factor above 0, not {self.width}.")

    @property
    def title(self) -> str:
        """Name of the Keras model."""
        return f"edge_net_{self.width:g}"

    def connect(self, wire: Wiring, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Return the logits; see :class:`Network`."""
        x = wire.conv(x, "conv1", self._channels(32), stride=2, bias=False)
        x = wire.relu(wire.norm(x, "conv1_bn"), "conv1_relu")
        for i, (filters, stride) in enumerate(_BLOCKS, start=1):
            x = wire.depthwise(x, f"block{i}_depthwise", stride=stride)
            x = wire.relu(wire.norm(x, f"block{i}_depthwise_bn"), f"block{i}_depthwise_relu")
            x = wire.conv(x, f"block{i}_pointwise", self._channels(filters), kernel=1, bias=False)
            x = wire.relu(wire.norm(x, f"block{i}_pointwise_bn"), f"block{i}_pointwise_relu")
        x = keras.layers.GlobalAveragePooling2D(name="average")(x)
        return wire.dense(x, "logits", num_classes)

    def _channels(self, filters: int) -> int:
        """Return the number of channels at this width, a multiple of 8."""
        return max(8, 8 * round(filters * self.width / 8))
