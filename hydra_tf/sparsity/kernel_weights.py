"""Which weights of a layer are kernels, that is, are pruned and counted.

A kernel is a trainable weight of rank 2 or more that multiplies inputs: those of dense layers and
convolutions, depthwise and recurrent ones included, but not embeddings, normalisation or biases. A
layer decides this itself with a method ``get_prunable_weights()`` that returns a list of its
weights, as TFMOT's ``PrunableLayer`` has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra_tf.core.keras_models import attributes, inner_layers
from hydra_tf.core.keras_private import trainable_unless_frozen
from hydra_tf.core.lazy import keras

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
        fan_in: number of inputs of one output.
        owner: the layer of which it is a weight, the layer itself or one inside it.
    """

    path: str
    variable: Any
    fan_in: int
    owner: Any

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
            yield KernelWeight(path + name, weight, _fan_in(layer, weight), layer)
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


def _fan_in(layer: Any, weight: Any) -> int:
    """Return the number of inputs of one output of a layer; see :func:`kernel_weights`."""
    shape = tuple(weight.shape)
    depthwise = is_one_of(layer, ("DepthwiseConv1D", "DepthwiseConv2D"))
    if depthwise or weight.name == "depthwise_kernel":
        return max(1, math.prod(shape[:-2]))
    if is_one_of(layer, ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")):
        return max(1, math.prod(shape[:-2]) * shape[-1])  # outputs come before inputs
    if is_one_of(layer, ("EinsumDense",)) and weight.name == "kernel":
        inputs, outputs = layer.equation.replace("...", "").split("->")
        axes = dict(zip(inputs.split(",")[1], shape, strict=True))
        return max(1, math.prod(size for axis, size in axes.items() if axis not in outputs))
    return max(1, math.prod(shape[:-1]))
