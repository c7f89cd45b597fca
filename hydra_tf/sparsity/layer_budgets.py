"""The number of weights that each layer of a model keeps."""

from __future__ import annotations

import math

import numpy as np

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.allocation import AllocationSpec, allocation_of, kept_per_layer
from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity, GranularitySpec
from hydra_tf.sparsity.masked_kernels import logits_kernel, masked_layers, scores_by_name
from hydra_tf.sparsity.multiply_adds import weight_costs
from hydra_tf.sparsity.tied_channels import tied_channels
from hydra_tf.sparsity.topk import kept_count


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
    outputs = layers[-1].kernel.shape[-1] if layers[-1] is logits_kernel(model) else 1
    counts = kept_per_layer(allocation, scores, density, outputs, costs, units, tied)
    return [counts[key] for key in scores]


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
