"""The tensors of a PyTorch file and the Keras variables that have the same values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hydra_tf.interop.torch.layouts import Layout

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Arrangement:
    """The order of the values of a tensor.

    Args:
        axes: for each axis in PyTorch, that axis in Keras.
        flattened: (height, width, channels) of the images whose flattened values are the inputs
            of a dense layer; PyTorch flattens them with channels first.

    Example:
        >>> kernel = np.arange(4).reshape(4, 1)  # 2 pixels of 2 channels, one output
        >>> Arrangement((3, 2, 0, 1), flattened=(1, 2, 2)).to_torch(kernel)
        array([[0, 2, 1, 3]])
    """

    axes: tuple[int, ...]
    flattened: tuple[int, int, int] | None = None

    def to_torch(self, array: Array) -> Array:
        """Return an array of Keras in the order of PyTorch."""
        if self.flattened:
            array = array.reshape(*self.flattened, -1)
        array = array.transpose(self.axes)
        if self.flattened:
            array = array.reshape(len(array), -1)
        return np.ascontiguousarray(array)

    def torch_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape in PyTorch of an array that has another one in Keras."""
        sizes = (*(self.flattened or shape[:-1]), shape[-1])
        moved = tuple(sizes[axis] for axis in self.axes)
        return (moved[0], math.prod(moved[1:])) if self.flattened else moved

    def to_keras(self, array: Array) -> Array:
        """Return an array of PyTorch in the order of Keras."""
        if self.flattened:
            height, width, channels = self.flattened
            array = array.reshape(-1, channels, height, width)
        array = array.transpose(np.argsort(self.axes))
        if self.flattened:
            array = array.reshape(-1, array.shape[-1])
        return array


_VECTOR, _DENSE, _CONVOLUTION = (Arrangement(axes) for axes in ((0,), (1, 0), (3, 2, 0, 1)))


@dataclass(frozen=True)
class TensorLink:
    """A tensor of a PyTorch file and the Keras variable with its values.

    Args:
        name: name of the tensor.
        variable: the Keras variable.
        arrangement: the order of the values.
    """

    name: str
    variable: keras.Variable
    arrangement: Arrangement

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor in PyTorch."""
        return self.arrangement.torch_shape(self.variable.shape)


def tensor_links(model: keras.Model, layout: Layout) -> list[TensorLink]:
    """Return the links of all tensors of a network.

    Args:
        model: a network of the zoo, masked or plain.
        layout: its layout.

    Example:
        >>> from hydra_tf import models
        >>> from hydra_tf.interop.torch.layouts import layout_of
        >>> net = models.build("mnist_cnn", (8, 8, 1), 10)
        >>> [(link.name, link.shape) for link in tensor_links(net, layout_of(net))][:2]
        [('0.weight', (16, 1, 4, 4)), ('0.bias', (16,))]
    """
    links = []
    flatten = next((each for each in model.layers if isinstance(each, keras.layers.Flatten)), None)
    for name, module in layout.modules.items():
        layer = model.get_layer(name)
        if isinstance(layer, keras.layers.BatchNormalization):
            pairs = {
                "weight": (layer.gamma, _VECTOR),
                "bias": (layer.beta, _VECTOR),
                "running_mean": (layer.moving_mean, _VECTOR),
                "running_var": (layer.moving_variance, _VECTOR),
            }
        else:
            kernel = _CONVOLUTION if len(layer.kernel.shape) == 4 else _DENSE
            if flatten is not None and name == "fc1":
                kernel = Arrangement(_CONVOLUTION.axes, flatten.input.shape[1:])
            pairs = {"weight": (layer.kernel, kernel)}
            if layer.bias is not None:
                pairs["bias"] = (layer.bias, _VECTOR)
            if hasattr(layer, "scores"):
                pairs["popup_scores"] = (layer.scores, kernel)
        links += [TensorLink(f"{module}.{part}", *pair) for part, pair in pairs.items()]
    return links
