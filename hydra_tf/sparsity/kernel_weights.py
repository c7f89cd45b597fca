"""Which weights of a layer are kernels, that is, are pruned and counted.

A kernel is a trainable weight of rank 2 or more that multiplies inputs: those of dense layers and
convolutions, depthwise and recurrent ones included, but not embeddings, normalisation or biases. A
layer decides this itself with a method ``get_prunable_weights()`` that returns a list of its
weights, as TFMOT's ``PrunableLayer`` has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_tf.core.keras_models import attributes, inner_layers
from hydra_tf.core.keras_private import trainable_unless_frozen
from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.granularity import default_axes

# Last words of the names of weights that are added to something, or scale it, whatever their rank.
_NO_KERNEL = re.compile(
    r"(.*_)?(beta|gamma|alpha|scale|embed|embeddings?|pos|positions?|tokens?|states?)(_\d+)?"
    r"|(.*_)?bias(_.*)?"
)
_NORMALIZATIONS = (
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization",
    "UnitNormalization", "Normalization",
)  # fmt: skip
_EMBEDDINGS = ("Embedding", "ReversibleEmbedding")
_ELEMENTWISE = ("PReLU",)


@dataclass(frozen=True)
class KernelWeight:
    """A kernel of a layer.

    Args:
        path: attributes that lead from the layer to the weight, and the weight's name, joined by
            ``/``; the same for every copy of the layer.
        variable: the weight.
        axes: meaning of its axes; see :mod:`hydra_tf.sparsity.granularity`.
        owner: the layer of which it is a weight, the layer itself or one inside it.
    """

    path: str
    variable: Any
    axes: str
    owner: Any

    @property
    def fan_in(self) -> int:
        """Number of inputs of one output."""
        return fan_in_of(self.variable.shape, self.axes)

    @property
    def is_embedding(self) -> bool:
        """Whether it is the table of an embedding."""
        return is_one_of(self.owner, _EMBEDDINGS)


def kernel_weights(layer: Any, embeddings: bool = False) -> list[KernelWeight]:
    """Return the kernels of a layer, those of the layers inside it included, each once.

    Args:
        layer: a built Keras layer or model.
        embeddings: whether tables of embeddings count as kernels.

    Raises:
        ValueError: when ``get_prunable_weights`` of a layer returns something that is not a
            weight of that layer.

    Example:
        >>> layer = keras.layers.LSTM(3)
        >>> layer.build((None, 5, 2))
        >>> [(kernel.path, tuple(kernel.variable.shape)) for kernel in kernel_weights(layer)]
        [('cell/kernel', (2, 12)), ('cell/recurrent_kernel', (3, 12))]
    """
    return list(_walk(layer, "", embeddings, set()))


def _walk(layer: Any, path: str, embeddings: bool, seen: set[int]) -> Iterator[KernelWeight]:
    """Yield the kernels of a layer and of the layers inside it."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    inside = inner_layers(layer)
    if hasattr(layer, "get_prunable_weights"):
        chosen = _prunable(layer)
        inside = []
    else:
        below = {id(weight) for _, inner in inside for weight in inner.weights}
        chosen = [w for w in _own_kernels(layer, embeddings) if id(w) not in below]
    # Names of weights may be made by Keras, different in each copy of the layer.
    names = {id(weight): name for name, weight in reversed(attributes(layer, keras.Variable))}
    for number, weight in enumerate(chosen):
        if id(weight) not in seen:  # one weight may be used by several layers
            seen.add(id(weight))
            name = names.get(id(weight), f"weight_{number}")
            yield KernelWeight(path + name, weight, kernel_axes(layer, weight), layer)
    for name, inner in inside:
        yield from _walk(inner, f"{path}{name}/", embeddings, seen)


def _prunable(layer: Any) -> list[Any]:
    """Return the weights that a layer names as prunable."""
    chosen, own = list(layer.get_prunable_weights()), {id(weight) for weight in layer.weights}
    if not all(id(weight) in own and len(weight.shape) for weight in chosen):
        raise ValueError(
            f'get_prunable_weights of the layer "{layer.name}" ({type(layer).__name__}) must '
            "return a list of weights of that layer."
        )
    return chosen


def _own_kernels(layer: Any, embeddings: bool) -> list[Any]:
    """Return the weights of a layer that are kernels by their class, rank, type and name."""
    if is_one_of(layer, _EMBEDDINGS):
        return [layer.embeddings] if embeddings and layer.built else []
    if is_one_of(layer, (*_NORMALIZATIONS, *_ELEMENTWISE)):
        return []
    scores = id(layer.scores) if hasattr(layer, "refresh_mask") and layer.built else None
    names = {id(weight): name for name, weight in attributes(layer, keras.Variable)}
    return [
        weight
        for weight in trainable_unless_frozen(layer)
        if len(weight.shape) > 1
        and "float" in str(weight.dtype)
        and not _NO_KERNEL.fullmatch(weight.name)
        and not _NO_KERNEL.fullmatch(names.get(id(weight), ""))
        and id(weight) != scores
    ]


def is_one_of(layer: Any, names: tuple[str, ...]) -> bool:
    """Return whether a layer is one of some classes of keras.layers that this version has.

    Args:
        layer: a Keras layer.
        names: names of classes.

    Example:
        >>> is_one_of(keras.layers.Dense(2), ("Dense", "NoSuchLayer"))
        True
    """
    classes = [getattr(keras.layers, name, None) for name in names]
    return isinstance(layer, tuple(kind for kind in classes if kind is not None))


def kernel_axes(layer: Any, weight: Any) -> str:
    """Return the meaning of the axes of a kernel; see :mod:`hydra_tf.sparsity.granularity`.

    Args:
        layer: the layer of which it is a weight.
        weight: the kernel.

    Example:
        >>> layer = keras.layers.Conv2DTranspose(3, 5)
        >>> layer.build((None, 8, 8, 4))
        >>> kernel_axes(layer, layer.kernel)
        'ssoi'
    """
    rank = len(weight.shape)
    depthwise = is_one_of(layer, ("DepthwiseConv1D", "DepthwiseConv2D"))
    if depthwise or weight.name == "depthwise_kernel":
        return "s" * (rank - 2) + "co"
    if is_one_of(layer, ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")):
        return "s" * (rank - 2) + "oi"
    if is_one_of(layer, ("EinsumDense",)) and weight.name == "kernel":
        inputs, outputs = layer.equation.replace("...", "").split("->")
        return "".join("o" if axis in outputs else "i" for axis in inputs.split(",")[1])
    return default_axes(rank)


def fan_in_of(shape: Sequence[int], axes: str) -> int:
    """Return the number of inputs of one output.

    Args:
        shape: shape of a kernel.
        axes: meaning of its axes.

    Example:
        >>> fan_in_of((5, 5, 3, 4), "ssoi"), fan_in_of((3, 3, 8, 1), "ssco")
        (100, 9)
    """
    return math.prod(size for size, axis in zip(shape, axes, strict=True) if axis in "si")
