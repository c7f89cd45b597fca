"""The kernels of a model, and what masks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hydra_tf.core.keras_models import all_layers, is_graph, wrapped_network
from hydra_tf.core.lazy import keras, tf
from hydra_tf.sparsity.kernel_weights import kernel_weights
from hydra_tf.sparsity.selection import Selection


class MaskedLike(Protocol):
    """The attributes of a masked layer that this package uses."""

    name: str
    label: str
    kernel: keras.Variable
    scores: keras.Variable
    mask: keras.Variable
    joint_budget: tf.Variable
    density: float
    granularity: str
    selection: Selection
    axes: str
    fan_in: int

    def refresh_mask(self, kept: int | tf.Tensor | None = None) -> tf.Tensor:
        """Choose the mask from the scores, and return it."""

    def record_density(self, kept: int, density: float) -> None:
        """Store the density that was asked for, before the mask is chosen."""

    def kept(self) -> tf.Tensor:
        """Return the number of weights that the mask keeps."""

    def masked_kernel(self) -> tf.Tensor:
        """Return the kernel times the mask, as the layer computes with it."""

    def pruned_kernel(self) -> tf.Tensor:
        """Return the kernel with zeros where it is pruned, in the kernel's own dtype."""


def masked_layers(model: keras.Model) -> list[MaskedLike]:
    """Return the masked kernels of a model, nested models and layers inside included, each once.

    A masked kernel is a masked layer, or a :class:`hydra_tf.layers.WeightMask` of a layer that
    masks several kernels.

    Example:
        >>> import keras
        >>> masked_layers(keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]))
        []
    """
    return [layer for layer in all_layers(model) if hasattr(layer, "refresh_mask")]


@dataclass(frozen=True)
class ModelKernel:
    """A kernel of a model.

    Args:
        label: name of the layer, with the path of the kernel if the layer has several.
        variable: the weight.
        layer: the layer of the model to which it belongs, perhaps within layers inside.
        mask: what masks it, None if nothing does.
    """

    label: str
    variable: keras.Variable
    layer: keras.layers.Layer
    mask: MaskedLike | None


def kernels(model: keras.Model, embeddings: bool = False) -> list[ModelKernel]:
    """Return the kernels of a model, in the order of its layers, each once.

    Args:
        model: a Keras model.
        embeddings: whether tables of embeddings count as kernels; masked ones always do.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([5, 2]), keras.layers.LSTM(3, name="lstm")])
        >>> [kernel.label for kernel in kernels(net)]
        ['lstm/cell/kernel', 'lstm/cell/recurrent_kernel']
    """
    model = wrapped_network(model)
    masks = {id(mask.kernel): mask for mask in masked_layers(model)}
    found: dict[int, ModelKernel] = {}
    for layer in _outer_layers(model):
        wraps = getattr(type(layer), "masks_inner_layer", False)
        inside = layer.layer if wraps else layer
        weights = kernel_weights(inside, embeddings=True)
        weights = [
            w for w in weights if embeddings or not w.is_embedding or id(w.variable) in masks
        ]
        for weight in weights:
            mask = masks.get(id(weight.variable))
            single = len(weights) == 1 and weight.path == "kernel"
            label = layer.name if single else f"{layer.name}/{weight.path}"
            label = label if mask is None else mask.label
            entry = ModelKernel(label, weight.variable, layer, mask)
            found.setdefault(id(weight.variable), entry)
    return list(found.values())


def _outer_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model and of nested models, without those inside other layers."""
    layers = all_layers(model, in_wrappers=False)
    return [layer for layer in layers if not is_graph(layer)] if is_graph(model) else [model]


def logits_kernel(model: keras.Model) -> MaskedLike | None:
    """Return the masked kernel that computes the logits, the last one; None if it has no mask.

    Args:
        model: a model with masked layers.

    Example:
        >>> import keras, hydra_tf
        >>> layers = [keras.layers.Dense(4), keras.layers.Dense(2, name="logits")]
        >>> net = keras.Sequential([keras.Input([3]), *layers])
        >>> logits_kernel(hydra_tf.mask_model(net)).label
        'logits'
        >>> logits_kernel(hydra_tf.mask_model(net, exclude=["logits"])) is None
        True
    """
    found = kernels(model)
    return found[-1].mask if found else None


def scores_by_name(model: keras.Model) -> dict[str, np.ndarray[Any, Any]]:
    """Return the scores of each masked kernel by a name that is unique, in the order of the layers.

    Args:
        model: a model with masked layers.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, name="dense")])
        >>> list(scores_by_name(hydra_tf.mask_model(net)))
        ['dense']
    """
    return {key: np.asarray(layer.scores) for key, layer in masks_by_name(model).items()}


def masks_by_name(model: keras.Model) -> dict[str, MaskedLike]:
    """Return each masked kernel by a name that is unique, in the order of the layers.

    Layers of different nested models may have the same name; their keys include a position.

    Args:
        model: a model with masked layers.

    Example:
        >>> import keras, hydra_tf
        >>> parts = [keras.Sequential([keras.layers.Dense(2, name="dense")]) for _ in range(2)]
        >>> net = keras.Sequential([keras.Input([2]), *parts])
        >>> list(masks_by_name(hydra_tf.mask_model(net)))
        ['0/dense', '1/dense']
    """
    layers = masked_layers(model)
    names = [layer.label for layer in layers]
    keys = [n if names.count(n) == 1 else f"{i}/{n}" for i, n in enumerate(names)]
    return dict(zip(keys, layers, strict=True))


def refuse_self_pruned(model: keras.Model, user: str) -> None:
    """Check that no layer of a model chooses its mask itself, as those of prune_low_magnitude do.

    Args:
        model: a Keras model.
        user: what sets the masks, for the error.

    Raises:
        ValueError: with the name of the layer and what to do.

    Example:
        >>> import keras
        >>> refuse_self_pruned(keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]), "train")
    """
    for layer in all_layers(model):
        if getattr(layer, "prunes_itself", False):
            raise ValueError(
                f'The layer "{layer.name}" is pruned by a schedule of its own, that of '
                f"prune_low_magnitude, which {user} cannot set; call strip_pruning on the network, "
                "then hydra_tf.mask_model(net, keep_zeros=True)."
            )
