"""Density and masks of a model."""

from __future__ import annotations

import math

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.allocation import AllocationSpec
from hydra_tf.sparsity.density_report import report, warn_of_unmasked
from hydra_tf.sparsity.granularity import GranularitySpec, granularity_name
from hydra_tf.sparsity.joint_groups import is_grouped
from hydra_tf.sparsity.layer_budgets import (
    kept_weights,
    layer_densities,
    layer_granularities,
    layer_selections,
)
from hydra_tf.sparsity.mask_refresh import refresh_masks
from hydra_tf.sparsity.masked_kernels import (
    MaskedLike,
    ModelKernel,
    kernels,
    logits_kernel,
    masked_layers,
    refuse_self_pruned,
    scores_by_name,
)
from hydra_tf.sparsity.selection import Selection
from hydra_tf.sparsity.topk import kept_count

__all__ = [
    "MaskedLike",
    "ModelKernel",
    "kernels",
    "layer_densities",
    "layer_granularities",
    "logits_kernel",
    "masked_layers",
    "refresh_masks",
    "refuse_self_pruned",
    "report",
    "scores_by_name",
    "selection_settings",
    "set_density",
    "set_selection",
    "warn_of_unmasked",
]


def set_density(
    model: keras.Model,
    density: float,
    allocation: AllocationSpec = "uniform",
    granularity: GranularitySpec = "element",
) -> None:
    """Set the density of the network, and choose the masks.

    All masks together keep ``max(1, round(density * n))`` of n weights, or the most whole groups of
    weights that do not exceed this number, and at least one group per layer. During a `fit`, this
    takes effect from the next step on: the prune phase keeps as many weights as the masks do.

    Args:
        model: a model with masked layers (see :func:`hydra_tf.mask_model`).
        density: share of the masked layers' weights to keep, in (0, 1].
        allocation: density per layer: ``"uniform"``, ``"uniform_plus"``, ``"erk"``, ``"lamp"``,
            ``"global"`` (see :mod:`hydra_tf.sparsity.allocation`) or ``"learned"`` (see
            :mod:`hydra_tf.sparsity.learned`), with parameters, as in ``"erk:min_kept=4"``; a
            mapping from names of layers, of kernels such as ``"lstm/cell/kernel"``, or patterns of
            them, to densities, whose other layers share the rest; or a callable
            ``(scores, density) -> mapping``.
        granularity: unit that is kept or pruned as one: ``"element"``, ``"block:size=4"``,
            ``"kernel"``, ``"filter"``, ``"channel"``, or ``"n_m:n=2,m=4"``, whose density is n/m
            (see :mod:`hydra_tf.sparsity.granularities`). With groups of weights, allocations rank
            their mean scores when the density is set; from then on, each layer keeps its number of
            groups. ``"global"`` ranks them again whenever masks are chosen.

    Raises:
        ValueError: for a density outside (0, 1] or one that the granularity does not allow, an
            unknown name, a budget that cannot be met, or a model without masks.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> masked = hydra_tf.mask_model(net)
        >>> set_density(masked, 0.1)
        >>> report(masked)["total"]["kept"]
        10
    """
    layers = masked_layers(model)
    counts = kept_weights(model, density, allocation, granularity)
    set_selection(model, allocation, granularity)
    total = kept_count(density, sum(math.prod(layer.kernel.shape) for layer in layers))
    groups = any(is_grouped(layer) for layer in layers)
    for layer, kept in zip(layers, counts, strict=True):
        layer.record_density(kept, density)
        # Single weights use up their budget, so that masks tell it; groups may leave some.
        layer.joint_budget.assign(total if groups and layer.selection.joint else 0)
    refresh_masks(model, counts)


def set_selection(
    model: keras.Model, allocation: AllocationSpec, granularity: GranularitySpec
) -> None:
    """Set how masks will be chosen, without choosing them.

    Args:
        model: a model with masked layers.
        allocation: as in :func:`set_density`.
        granularity: as in :func:`set_density`.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> masked = hydra_tf.mask_model(net)
        >>> set_selection(masked, "global", "element")
        >>> masked.layers[0].selection.joint
        True
    """
    parts = layer_granularities(model, granularity)
    chosen = layer_selections(model, allocation)
    for layer, own, selection in zip(masked_layers(model), parts, chosen, strict=True):
        layer.granularity, layer.selection = granularity_name(own), selection


def selection_settings(model: keras.Model) -> list[tuple[str, Selection]]:
    """Return how each mask is chosen; a graph that was traced for other settings is traced again.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> selection_settings(hydra_tf.mask_model(net))[0][0]
        'element'
    """
    return [(layer.granularity, layer.selection) for layer in masked_layers(model)]
