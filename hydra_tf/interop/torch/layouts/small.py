"""The small networks without BatchNorm of HYDRA, each a Sequential."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hydra_tf.interop.torch.layouts.base import Layout
from hydra_tf.interop.torch.reading import Shapes


@dataclass(frozen=True)
class _SmallLayout(Layout):
    """A layout whose first dense layer tells the size of the images.

    Args:
        suffix: end of the name in files of HYDRA.
    """

    suffix: str = ""

    def architecture(self, shapes: Shapes) -> str:
        """Return the name in the zoo, where the small one for MNIST has a name of its own."""
        return "mnist_cnn" if self.name == "cnn_small" and self._is_gray(shapes) else self.name

    def published_name(self, shapes: Shapes) -> str:
        """Return a name such as ``cifar_model``."""
        return f"{'mnist' if self._is_gray(shapes) else 'cifar'}_model{self.suffix}"

    def image_shape(self, shapes: Shapes) -> tuple[int, int, int]:
        """Return the shape of square images, of which strides leave a quarter of each side."""
        channels = super().image_shape(shapes)[2]
        last = [layer for layer in self.modules if layer.startswith("conv")][-1]
        inputs = self.size(shapes, "fc1", 1, otherwise=8 * 8)
        side = 4 * math.isqrt(inputs // self.size(shapes, last, 0, otherwise=1))
        return (max(4, side), max(4, side), channels)

    def _is_gray(self, shapes: Shapes) -> bool:
        return self.size(shapes, "conv1", 1, otherwise=3) == 1


def layouts() -> list[Layout]:
    """Return the layouts of both networks.

    Example:
        >>> layouts()[0].modules
        {'conv1': '0', 'conv2': '2', 'fc1': '5', 'logits': '7'}
    """
    small = ("conv1", "conv2", "fc1", "logits")
    large = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "logits")
    return [
        _SmallLayout("cnn_small", dict(zip(small, "0257", strict=True)), first_kernel=4),
        _SmallLayout(
            "cnn_large",
            dict(zip(large, ["0", "2", "4", "6", "9", "11", "13"], strict=True)),
            suffix="_large",
        ),
    ]
