"""Density and masks of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from absl import logging

from hydra_tf.core.keras_models import all_layers, is_graph, wrapped_network
from hydra_tf.core.lazy import keras, tf
from hydra_tf.sparsity.allocation import AllocationSpec, allocation_of, kept_per_layer
from hydra_tf.sparsity.granularity import (
    GRANULARITIES,
    Granularity,
    GranularitySpec,
    granularity_name,
)
from hydra_tf.sparsity.kernel_weights import kernel_weights
from hydra_tf.sparsity.multiply_adds import weight_costs
from hydra_tf.sparsity.selection import Selection
from hydra_tf.sparsity.topk import kept_count, largest_together, magnitudes

_UNMASKED = 0.01  # share of the kernel weights without a mask that is not worth a warning
_GROUP = 500_000  # weights whose masks are chosen at the same time
_SHOWN = 5  # layers in a warning


class MaskedLike(Protocol):
    """The attributes of a masked layer that this package uses."""

    name: str
    label: str
    kernel: keras.Variable
    scores: keras.Variable
    mask: keras.Variable
    density: float
    granularity: str
    selection: Selection
    axes: str
    fan_in: int

    def refresh_mask(self, kept: int | tf.Tensor | None = None) -> tf.Tensor:
        """Choose the mask from the scores, and return it."""

    def set_kept(self, kept: int, density: float) -> None:
        """Choose the mask with a number of weights."""

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


def warn_of_unmasked(model: keras.Model, density: float | None = None) -> None:
    """Log a warning if masks reach less than 99% of the kernel weights of a model.

    Args:
        model: a model with masked layers.
        density: density that the masked layers will have, None if unknown.
    """
    rows = kernels(model)
    unmasked: dict[str, int] = {}
    for row in rows:
        if row.mask is None:
            name = f"{row.layer.name} ({type(row.layer).__name__})"
            unmasked[name] = unmasked.get(name, 0) + math.prod(row.variable.shape)
    whole = sum(math.prod(row.variable.shape) for row in rows)
    left = sum(unmasked.values()) / whole if whole else 0.0
    if left <= _UNMASKED:
        return
    names = sorted(unmasked, key=lambda name: -unmasked[name])
    shown = ", ".join(f"{name} {unmasked[name] / whole:.1%}" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    asked = 0.1 if density is None else density
    logging.warning(
        "hydra_tf: the masks reach %.1f%% of the kernel weights of %s, so that at a density of %g "
        "of the masked layers it keeps %.1f%% of all; layers without a mask: %s%s.",
        *(100 * (1 - left), model.name, asked, 100 * (asked * (1 - left) + left), shown, more),
    )


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


def refresh_masks(model: keras.Model, kept: Sequence[tf.Tensor] | None = None) -> None:
    """Choose the mask of every layer again from its scores.

    In a graph, large layers are processed one after the other, after all scores are updated. In
    parallel, and while gradients are in memory, they would need several times the memory of the
    network and not be faster. Small layers are processed in parallel.

    Args:
        model: a model with masked layers.
        kept: number of weights that each mask keeps, scalar integers; as many as now when left out.
    """
    layers = masked_layers(model)
    numbers = {} if kept is None else {id(k): n for k, n in zip(layers, kept, strict=True)}
    before: list[tf.Tensor] = [tf.convert_to_tensor(layer.scores) for layer in layers]
    for group in _groups([layer for layer in layers if not layer.selection.joint]):
        with tf.control_dependencies(before):
            before = [layer.refresh_mask(numbers.get(id(layer))) for layer in group]
    if joint := [layer for layer in layers if layer.selection.joint]:
        with tf.control_dependencies(before):
            _choose_together(joint, tf.add_n([layer.kept() for layer in joint]))


def _choose_together(layers: Sequence[MaskedLike], kept: int | tf.Tensor) -> None:
    """Choose the masks of layers that compete with one another; ties go to the lowest label."""
    ranked = sorted(layers, key=lambda layer: layer.label)
    bits = [
        magnitudes(layer.selection.ranked(tf.convert_to_tensor(layer.scores))) for layer in ranked
    ]
    for layer, chosen in zip(ranked, largest_together(bits, kept), strict=True):
        layer.mask.assign(tf.reshape(chosen, layer.mask.shape))


def _groups(layers: Sequence[MaskedLike]) -> Iterator[list[MaskedLike]]:
    """Yield the layers in groups, each of one large layer or of several small ones."""
    group: list[MaskedLike] = []
    weights = 0
    for layer in layers:
        size = math.prod(layer.kernel.shape)
        if group and weights + size > _GROUP:
            yield group
            group, weights = [], 0
        group.append(layer)
        weights += size
    if group:
        yield group


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
    counts = _kept(model, density, allocation, granularity)
    return [
        kept / math.prod(layer.kernel.shape) for layer, kept in zip(layers, counts, strict=True)
    ]


def _kept(
    model: keras.Model,
    density: float,
    allocation: AllocationSpec,
    granularity: GranularitySpec,
) -> list[int]:
    """Return the number of weights that each layer keeps, those of whole groups."""
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
    costs = None
    if getattr(allocation_of(allocation), "budget", "weights") == "flops":
        costs = dict(zip(scores, weight_costs(model, layers), strict=True))
    outputs = layers[-1].kernel.shape[-1] if layers[-1] is logits_kernel(model) else 1
    counts = kept_per_layer(allocation, scores, density, outputs, costs, units)
    return [counts[key] for key in scores]


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
    layers = masked_layers(model)
    # Layers of different nested models may have the same name; their keys include a position.
    names = [layer.label for layer in layers]
    keys = [n if names.count(n) == 1 else f"{i}/{n}" for i, n in enumerate(names)]
    return {key: np.asarray(layer.scores) for key, layer in zip(keys, layers, strict=True)}


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
            their mean scores when the density is set, ``"global"`` too; from then on, each layer
            keeps its number of groups.

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
    counts = _kept(model, density, allocation, granularity)
    set_selection(model, allocation, granularity)
    for layer, kept in zip(layers, counts, strict=True):
        layer.set_kept(kept, density)
    if layers[0].selection.joint:
        _choose_together(layers, sum(counts))


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
    part = allocation_of(allocation)
    layers = masked_layers(model)
    parts, logits = layer_granularities(model, granularity), logits_kernel(model)
    groups = any(p.unit(k.kernel.shape, k.axes) > 1 for p, k in zip(parts, layers, strict=True))
    # Groups of different sizes that compete would keep another number of weights at every step.
    joint = getattr(part, "joint", False) and not groups
    for own, layer in zip(parts, layers, strict=True):
        last = layer is logits and getattr(part, "every_output", False)
        layer.granularity = granularity_name(own)
        layer.selection = Selection(joint, getattr(part, "min_kept", 1) if joint else 1, last)


def selection_settings(model: keras.Model) -> list[tuple[str, Selection]]:
    """Return how each mask is chosen; a graph that was traced for other settings is traced again.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> selection_settings(hydra_tf.mask_model(net))[0][0]
        'element'
    """
    return [(layer.granularity, layer.selection) for layer in masked_layers(model)]


def report(model: keras.Model) -> dict[str, Any]:
    """Return the number of weights of each kernel, and how many are kept.

    Returns:
        ``{"layers": [...], "total": {...}}``; every entry has ``weights``, ``kept`` and
        ``density``, and those of kernels also ``name``, ``shape`` and ``masked``. Kernels whose
        masks keep groups of weights have ``group``, the size of a group along each axis. A kernel
        without a mask has density 1. Embeddings without a mask, biases and normalisation are not
        counted.

    Example:
        >>> import keras
        >>> report(keras.Sequential([keras.Input([2]), keras.layers.Dense(3)]))["total"]
        {'weights': 6, 'kept': 6, 'density': 1.0}
    """
    rows = []
    for kernel in kernels(model):
        weights = math.prod(kernel.variable.shape)
        kept = weights if kernel.mask is None else int(np.sum(np.asarray(kernel.mask.mask)))
        rows.append(
            {
                "name": kernel.label,
                "shape": [int(size) for size in kernel.variable.shape],
                "masked": kernel.mask is not None,
                "weights": weights,
                "kept": kept,
                "density": kept / weights,
                **_group(kernel.mask),
            }
        )
    weights, kept = sum(r["weights"] for r in rows), sum(r["kept"] for r in rows)
    total = {"weights": weights, "kept": kept, "density": kept / weights if weights else 1.0}
    return {"layers": rows, "total": total}


def _group(mask: MaskedLike | None) -> dict[str, list[int]]:
    """Return the entry of a report for the groups of a mask, empty for single weights."""
    if mask is None:
        return {}
    shape = tuple(int(size) for size in mask.kernel.shape)
    window = GRANULARITIES.build(mask.granularity).window(shape, mask.axes)
    return {} if math.prod(window) == 1 else {"group": list(window)}
