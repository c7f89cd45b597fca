"""Density and masks of a whole model."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.lazy import tf
from hydra_tf.sparsity.allocation import allocate
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.topk import kept_count


class MaskedLike(Protocol):
    """What this room needs of a masked layer."""

    name: str
    kernel: Any
    scores: Any
    mask: Any
    density: float
    granularity: str
    fan_in: int

    def refresh_mask(self) -> Any:
        """Choose the mask from the scores, and return it."""


def masked_layers(model: Any) -> list[MaskedLike]:
    """Return the masked layers of a model, nested models included, each once.

    Example:
        >>> import keras
        >>> masked_layers(keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]))
        []
    """
    return [layer for layer in all_layers(model) if hasattr(layer, "refresh_mask")]


def unmasked_kernels(layer: Any) -> list[Any]:
    """Return the weights of rank 2 or more of a layer without a mask.

    Weights of masked layers inside it, and of the layers of a nested model, are left out.
    """
    if hasattr(layer, "refresh_mask"):
        return []
    listed = [*getattr(layer, "layers", ()), *masked_layers(layer)]
    inner = {id(weight) for other in listed for weight in other.weights}
    return [w for w in layer.weights if len(w.shape) > 1 and id(w) not in inner]


def refresh_masks(model: Any) -> None:
    """Choose every mask of the model anew from its layer's scores.

    In a graph the layers come one after the other, and after the update of all scores: all
    at once, beside the gradients, they would need several times the network's memory for a
    moment, and gain no time.
    """
    layers = masked_layers(model)
    before: list[Any] = [tf.convert_to_tensor(layer.scores) for layer in layers]
    for layer in layers:
        with tf.control_dependencies(before):
            before = [layer.refresh_mask()]


def layer_densities(model: Any, density: float, allocation: Any = "uniform") -> list[float]:
    """Return the density that an allocation gives each masked layer; nothing is changed.

    Arguments and errors as in :func:`set_density`.

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
    # Two nested models may hold layers of one name, so the position goes before it.
    names = [layer.name for layer in layers]
    keys = [n if names.count(n) == 1 else f"{i}/{n}" for i, n in enumerate(names)]
    scores = {key: np.asarray(layer.scores) for key, layer in zip(keys, layers, strict=True)}
    shares = allocate(allocation, scores, density)
    return [float(shares[key]) for key in keys]


def set_density(
    model: Any, density: float, allocation: Any = "uniform", granularity: str = "element"
) -> None:
    """Keep a share of the weights: sets each layer's density and refreshes the masks.

    Args:
        model: a model with masked layers (see :func:`hydra_tf.mask_model`).
        density: share of the masked layers' weights to keep, in (0, 1].
        allocation: how layers share it: ``"uniform"``, ``"largest"``, ``"erk"``, a mapping
            from layer name to density, or a callable.
        granularity: what is kept as one: ``"element"``.

    Raises:
        ValueError: density outside (0, 1], an unknown name, or a model without masks.

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
        layer.density, layer.granularity = share, granularity
        layer.refresh_mask()


def adopt_masks(model: Any) -> None:
    """Give every layer the density that its mask has.

    Masks travel with the weights (`set_weights`, `load_weights`), densities do not; a refresh
    at the density of before would bring pruned weights back.

    Example:
        >>> import keras, hydra_tf
        >>> nets = [keras.Sequential([keras.Input([10]), keras.layers.Dense(10)]) for _ in "ab"]
        >>> pruned, fresh = (hydra_tf.mask_model(net) for net in nets)
        >>> set_density(pruned, 0.1)
        >>> fresh.set_weights(pruned.get_weights())
        >>> adopt_masks(fresh)
        >>> fresh.layers[0].density
        0.1
    """
    for layer in masked_layers(model):
        mask = np.asarray(layer.mask)
        kept = int(np.sum(mask))
        # A density that gives as many is left as it was written.
        if kept != kept_count(layer.density, mask.size):
            layer.density = kept / mask.size


def report(model: Any) -> dict[str, Any]:
    """Return how many weights each layer has and keeps.

    Returns:
        ``{"layers": [...], "total": {...}}``; every entry holds ``weights``, ``kept`` and
        ``density``, a layer's also its ``name``, ``shape`` and ``masked``. Layers that have
        weights of two axes or more but no mask (recurrent layers, embeddings) are listed
        with density 1; the shape is that of the largest. Biases and BatchNorm do not count.

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
