"""Density and masks of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.lazy import keras, tf
from hydra_tf.sparsity.allocation import Allocation, allocate
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.topk import kept_count

AllocationSpec: TypeAlias = str | Mapping[str, Any] | Allocation


class MaskedLike(Protocol):
    """The attributes of a masked layer that this package uses."""

    name: str
    kernel: keras.Variable
    scores: keras.Variable
    mask: keras.Variable
    density: float
    granularity: str
    fan_in: int

    def refresh_mask(self, kept: int | tf.Tensor | None = None) -> tf.Tensor:
        """Choose the mask from the scores, and return it."""

    def masked_kernel(self) -> tf.Tensor:
        """Return the kernel times the mask."""


def masked_layers(model: keras.Model) -> list[MaskedLike]:
    """Return the masked layers of a model, nested models included, each once.

    Example:
        >>> import keras
        >>> masked_layers(keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]))
        []
    """
    return [layer for layer in all_layers(model) if hasattr(layer, "refresh_mask")]


def unmasked_kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of rank 2 or more of a layer without a mask.

    Weights of masked layers inside it, and of the layers of a nested model, are left out.
    """
    if hasattr(layer, "refresh_mask"):
        return []
    listed = [*getattr(layer, "layers", ()), *masked_layers(layer)]
    inner = {id(weight) for other in listed for weight in other.weights}
    return [w for w in layer.weights if len(w.shape) > 1 and id(w) not in inner]


def refresh_masks(model: keras.Model) -> None:
    """Choose the mask of every layer again from its scores.

    In a graph, layers are processed one after the other, after all scores are updated. In
    parallel, and while gradients are in memory, they would need several times the memory of the
    network and not be faster.
    """
    layers = masked_layers(model)
    before: list[tf.Tensor] = [tf.convert_to_tensor(layer.scores) for layer in layers]
    for layer in layers:
        with tf.control_dependencies(before):
            before = [layer.refresh_mask()]


def layer_densities(
    model: keras.Model, density: float, allocation: AllocationSpec = "uniform"
) -> list[float]:
    """Return the density of each masked layer under an allocation, without changing the model.

    See :func:`set_density` for arguments and errors.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> layer_densities(hydra_tf.mask_model(net), 0.1)
        [0.1]
    """
    kept_count(density, 1)
    layers = masked_layers(model)
    if not layers:
        raise ValueError("The model has no masked layers; call hydra_tf.mask_model on it first.")
    # Layers of different nested models may have the same name; their keys include a position.
    names = [layer.name for layer in layers]
    keys = [n if names.count(n) == 1 else f"{i}/{n}" for i, n in enumerate(names)]
    scores = {key: np.asarray(layer.scores) for key, layer in zip(keys, layers, strict=True)}
    shares = allocate(allocation, scores, density)
    return [float(shares[key]) for key in keys]


def set_density(
    model: keras.Model,
    density: float,
    allocation: AllocationSpec = "uniform",
    granularity: str = "element",
) -> None:
    """Set the density of each layer, and choose the masks.

    During a `fit`, this takes effect from the next step on: the prune phase keeps as many weights
    as the masks do.

    Args:
        model: a model with masked layers (see :func:`hydra_tf.mask_model`).
        density: share of the masked layers' weights to keep, in (0, 1].
        allocation: density per layer: ``"uniform"``, ``"largest"``, ``"erk"``, a mapping from
            layer names to densities, or a callable ``(scores, density) -> mapping``.
        granularity: unit that is kept or pruned as one: ``"element"``.

    Raises:
        ValueError: for a density outside (0, 1], an unknown name, or a model without masks.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> masked = hydra_tf.mask_model(net)
        >>> set_density(masked, 0.1)
        >>> report(masked)["total"]["kept"]
        10
    """
    GRANULARITIES.build(granularity)
    shares = layer_densities(model, density, allocation)
    for layer, share in zip(masked_layers(model), shares, strict=True):
        layer.granularity = granularity
        layer.density = share  # which chooses the mask


def report(model: keras.Model) -> dict[str, Any]:
    """Return the number of weights of each layer, and how many are kept.

    Returns:
        ``{"layers": [...], "total": {...}}``; every entry has ``weights``, ``kept`` and
        ``density``, and those of layers also ``name``, ``shape`` and ``masked``. Layers that
        have weights of rank 2 or more but no mask (recurrent layers, embeddings) are listed
        with density 1 and the shape of the largest. Biases and BatchNorm are not counted.

    Example:
        >>> import keras
        >>> report(keras.Sequential([keras.Input([2]), keras.layers.Dense(3)]))["total"]
        {'weights': 6, 'kept': 6, 'density': 1.0}
    """
    rows = []
    outer = {id(layer) for layer in all_layers(model, in_wrappers=False)}
    for layer in all_layers(model):
        masked = hasattr(layer, "refresh_mask")
        kernels = [layer.kernel] if masked else []
        if not masked and id(layer) in outer:
            kernels = unmasked_kernels(layer)
        if not kernels:
            continue
        sizes = [math.prod(kernel.shape) for kernel in kernels]
        weights = sum(sizes)
        kept = int(np.sum(np.asarray(layer.mask))) if masked else weights
        rows.append(
            {
                "name": layer.name,
                "shape": [int(size) for size in kernels[sizes.index(max(sizes))].shape],
                "masked": masked,
                "weights": weights,
                "kept": kept,
                "density": kept / weights,
            }
        )
    weights, kept = sum(r["weights"] for r in rows), sum(r["kept"] for r in rows)
    total = {"weights": weights, "kept": kept, "density": kept / weights if weights else 1.0}
    return {"layers": rows, "total": total}
