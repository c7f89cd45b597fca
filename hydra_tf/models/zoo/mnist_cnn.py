"""CNN-small under the name of its data set."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.models.zoo.base import MODELS
from hydra_tf.models.zoo.cnn_small import CNNSmall


@MODELS.register()
@dataclass(frozen=True)
class MNISTCNN(CNNSmall):
    """Convolutions of 16 and 32 channels and a layer of 100: the MNIST network of the paper.

    Example:
        >>> MNISTCNN()((28, 28, 1), 10).count_params()
        166406
    """

    @property
    def title(self) -> str:
        """Name of the Keras model."""
        return "mnist_cnn"
