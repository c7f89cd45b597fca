"""CNN-large of the certified-training literature (Wong et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.core.lazy import keras
from hydra_tf.models.zoo.base import MODELS, Network
from hydra_tf.models.zoo.wiring import Wiring


@MODELS.register()
@dataclass(frozen=True)
class CNNLarge(Network):
    """Four convolutions (32, 32, 64, 64 channels) and two layers of 512, without BatchNorm.

    Every second convolution has stride 2.

    Example:
        >>> CNNLarge()((8, 8, 1), 10).count_params()
        500202
    """

    least_size: ClassVar[int] = 4

    @property
    def title(self) -> str:
        """Name of the Keras model."""
        return "cnn_large"

    def connect(self, wire: Wiring, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Return the logits; see :class:`Network`."""
        shapes = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
        for i, (filters, kernel, stride) in enumerate(shapes, start=1):
            x = wire.relu(wire.conv(x, f"conv{i}", filters, kernel, stride), f"relu{i}")
        x = keras.layers.Flatten(name="flatten")(x)
        x = wire.relu(wire.dense(x, "fc1", 512), "relu5")
        x = wire.relu(wire.dense(x, "fc2", 512), "relu6")
        return wire.dense(x, "logits", num_classes)
