"""CNN-small of the certified-training literature (Wong and Kolter, 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.core.lazy import keras
from hydra_tf.models.zoo.base import MODELS, Network
from hydra_tf.models.zoo.wiring import Wiring


@MODELS.register()
@dataclass(frozen=True)
class CNNSmall(Network):
    """Two strided convolutions (16 and 32 channels) and a layer of 100, without BatchNorm.

    Example:
        >>> CNNSmall()((32, 32, 3), 10).count_params()
        214918
    """

    least_size: ClassVar[int] = 4

    @property
    def title(self) -> str:
        """Name of the Keras model."""
        return "cnn_small"

    def connect(self, wire: Wiring, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Return the logits; see :class:`Network`."""
        x = wire.relu(wire.conv(x, "conv1", 16, kernel=4, stride=2), "relu1")
        x = wire.relu(wire.conv(x, "conv2", 32, kernel=4, stride=2), "relu2")
        x = keras.layers.Flatten(name="flatten")(x)
        x = wire.relu(wire.dense(x, "fc1", 100), "relu3")
        return wire.dense(x, "logits", num_classes)
