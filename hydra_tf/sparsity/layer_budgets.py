"""The number of weights that each layer of a model keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.allocation import AllocationSpec, allocation_of, kept_per_layer
from hydra_tf.sparsity.budget import require_budget, smallest_counts
from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity, GranularitySpec
from hydra_tf.sparsity.joint_groups import bundles_of, choose_groups
from hydra_tf.sparsity.masked_kernels import logits_kernel, masked_layers, scores_by_name
from hydra_tf.sparsity.multiply_adds import weight_costs
from hydra_tf.sparsity.selection import Selection
from hydra_tf.sparsity.tied_channels import tied_channels
from hydra_tf.sparsity.topk import count_kept, kept_count


def layer_densities(
    model: keras.Model,
    density: float,
    allocation: AllocationSpec = "uniform",
    granularity: GranularitySpec = "element",
) -> list[float]:
    """Return the density of each masked layer under an allocation, without changing the model.

    See :func:`set_density` for arguments and errors.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> layer_densities(hydra_tf.mask_model(net), 0.1)
        [0.1]
    """
    layers = masked_layers(model)
    counts = kept_weights(model, density, allocation, granularity)
    return [
        kept / math.prod(layer.kernel.shape) for layer, kept in zip(layers, counts, strict=True)
    ]


def kept_weights(
    model: keras.Model,
    density: float,
    allocation: AllocationSpec = "uniform",
    granularity: GranularitySpec = "element",
) -> list[int]:
    """Return the number of weights that each layer keeps, those of whole groups.

    Layers with tied channels keep the same ones: the budgets that the allocation gives them are
    one, and their scores are those of the channels in all of them.

    See :func:`hydra_tf.set_density` for arguments and errors.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> kept_weights(hydra_tf.mask_model(net), 0.1)
        [10]
    """
    kept_count(density, 1)
    GRANULARITIES.build(granularity).check_density(density, allocation_of(allocation))
    layers = masked_layers(model)
    if not layers:
        raise ValueError("The model has no masked layers; call hydra_tf.mask_model on it first.")
    parts = layer_granularities(model, granularity)
    fixed = [p.fixed_kept(k.kernel.shape, k.axes) for p, k in zip(parts, layers, strict=True)]
    if None not in fixed:
        return [kept for kept in fixed if kept is not None]
    if getattr(allocation_of(allocation), "joint", False):
        return _ranked_together(model, density, allocation, parts)
    names, units, scores = list(scores_by_name(model)), {}, {}
    for name, part, layer in zip(names, parts, layers, strict=True):
        units[name] = part.unit(layer.kernel.shape, layer.axes)
        scores[name] = np.asarray(part.mean_scores(layer.scores, layer.axes))
    tied = []
    label_of = {id(layer): name for name, layer in zip(names, layers, strict=True)}
    for tie in tied_channels(model, parts):
        tied.append([label_of[id(kernel.layer)] for kernel in tie.kernels])
        means = tie.scores() / tie.unit
        for name, kernel in zip(tied[-1], tie.kernels, strict=True):
            units[name] = kernel.weights // tie.size
            scores[name] = np.asarray(kernel.spread(means))
    costs = None
    if getattr(allocation_of(allocation), "budget", "weights") == "flops":
        costs = dict(zip(scores, weight_costs(model, layers), strict=True))
    counts = kept_per_layer(allocation, scores, density, _outputs(model), costs, units, tied)
    return [counts[key] for key in scores]


def _ranked_together(
    model: keras.Model, density: float, allocation: AllocationSpec, parts: Sequence[Granularity]
) -> list[int]:
    """Return the number of weights that each layer keeps if all compete, from their scores."""
    layers = masked_layers(model)
    bundles = bundles_of(
        layers, parts, layer_selections(model, allocation), tied_channels(model, parts)
    )
    share = {id(k): (b, math.prod(k.kernel.shape) // b.groups) for b in bundles for k in b.layers}
    sizes = {str(i): math.prod(layer.kernel.shape) for i, layer in enumerate(layers)}
    units = {str(i): share[id(layer)][1] for i, layer in enumerate(layers)}
    floors = smallest_counts(allocation_of(allocation), sizes, _outputs(model), units)
    total = kept_count(density, sum(sizes.values()))
    require_budget(total, floors, sizes)
    chosen = zip(bundles, choose_groups(bundles, total), strict=True)
    kept = {bundle: int(count_kept(groups)) for bundle, groups in chosen}
    return [kept[bundle] * weights for bundle, weights in (share[id(k)] for k in layers)]


def _outputs(model: keras.Model) -> int:
    """Return the number of outputs of the last layer, 1 if it has no mask."""
    last = masked_layers(model)[-1]
    return int(last.kernel.shape[-1]) if last is logits_kernel(model) else 1


def layer_selections(model: keras.Model, allocation: AllocationSpec) -> list[Selection]:
    """Return how an allocation chooses the mask of each layer.

    Args:
        model: a model with masked layers.
        allocation: as in :func:`hydra_tf.set_density`.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> layer_selections(hydra_tf.mask_model(net), "global")[0].joint
        True
    """
    part, logits = allocation_of(allocation), logits_kernel(model)
    joint = getattr(part, "joint", False)
    least = getattr(part, "min_kept", 1) if joint else 1
    outputs = getattr(part, "every_output", False)
    return [Selection(joint, least, outputs and k is logits) for k in masked_layers(model)]


def layer_granularities(model: keras.Model, granularity: GranularitySpec) -> list[Granularity]:
    """Return the granularity of each masked layer; that of the logits may differ.

    Args:
        model: a model with masked layers.
        granularity: as in :func:`set_density`.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> layer_granularities(hydra_tf.mask_model(net), "filter")
        [Layer()]
    """
    part, logits = GRANULARITIES.build(granularity), logits_kernel(model)
    return [part.of_last_layer() if k is logits else part for k in masked_layers(model)]
