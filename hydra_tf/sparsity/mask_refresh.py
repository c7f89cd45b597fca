"""Masks that are chosen again from the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from hydra_tf.core.lazy import keras, tf
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.joint_groups import Bundle, bundles_of, choose_groups, joint_budget
from hydra_tf.sparsity.masked_kernels import MaskedLike, masked_layers
from hydra_tf.sparsity.tied_channels import Tie, tied_channels

_GROUP = 500_000  # weights whose masks are chosen at the same time


def refresh_masks(model: keras.Model, kept: Sequence[int | tf.Tensor] | None = None) -> None:
    """Choose the mask of every layer again from its scores.

    In a graph, large layers are processed one after the other, after all scores are updated. In
    parallel, and while gradients are in memory, they would need several times the memory of the
    network and not be faster. Small layers are processed in parallel. Layers with tied channels
    are processed together; see :mod:`hydra_tf.sparsity.tied_channels`. Layers that compete with one
    another, as those of ``"global"``, are chosen last; see :mod:`hydra_tf.sparsity.joint_groups`.

    Args:
        model: a model with masked layers.
        kept: number of weights that each mask keeps, whole numbers or scalar integers; as many as
            now when left out. Of layers that compete, the sum is their budget.

    Example:
        >>> import hydra_tf
        >>> net = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        >>> masked = hydra_tf.mask_model(net)
        >>> (layer,) = masked_layers(masked)
        >>> _ = layer.scores.assign([[0.1], [-0.5], [0.3]])
        >>> refresh_masks(masked, kept=[2])
        >>> layer.mask.numpy().ravel().tolist()
        [False, True, True]
    """
    layers = masked_layers(model)
    counts = {} if kept is None else {id(k): n for k, n in zip(layers, kept, strict=True)}
    parts = [GRANULARITIES.build(layer.granularity) for layer in layers]
    ties = tied_channels(model, parts)
    bundles = bundles_of(layers, parts, [layer.selection for layer in layers], ties)
    joint = [layer for bundle in bundles for layer in bundle.layers]
    chosen = {id(layer) for layer in joint}
    ties = [tie for tie in ties if id(tie.kernels[0].layer) not in chosen]
    chosen |= {id(kernel.layer) for tie in ties for kernel in tie.kernels}
    before: list[tf.Tensor] = [tf.convert_to_tensor(layer.scores) for layer in layers]
    for group in _groups([*ties, *(layer for layer in layers if id(layer) not in chosen)]):
        with tf.control_dependencies(before):
            before = [mask for part in group for mask in _refreshed(part, counts)]
    if bundles:
        with tf.control_dependencies(before):
            budget = _total(joint, counts) if counts else joint_budget(bundles)
            _choose_together(bundles, budget)


def _refreshed(part: Tie | MaskedLike, counts: Mapping[int, int | tf.Tensor]) -> list[tf.Tensor]:
    """Choose the masks of a layer, or of tied ones, and return them."""
    if isinstance(part, Tie):
        return part.refresh_masks(_total([kernel.layer for kernel in part.kernels], counts))
    return [part.refresh_mask(counts.get(id(part)))]


def _total(layers: Sequence[MaskedLike], counts: Mapping[int, int | tf.Tensor]) -> int | tf.Tensor:
    """Return how many weights layers keep together, as many as now if that is not given."""
    return sum(counts[id(k)] if id(k) in counts else k.kept() for k in layers)


def _groups(parts: Sequence[Tie | MaskedLike]) -> Iterator[list[Tie | MaskedLike]]:
    """Yield layers and ties in groups, each of one that is large or of several small ones."""
    group: list[Tie | MaskedLike] = []
    weights = 0
    for part in parts:
        size = part.weights if isinstance(part, Tie) else math.prod(part.kernel.shape)
        if group and weights + size > _GROUP:
            yield group
            group, weights = [], 0
        group.append(part)
        weights += size
    if group:
        yield group


def _choose_together(bundles: Sequence[Bundle], budget: int | tf.Tensor) -> None:
    """Choose the masks of layers that compete with one another."""
    for bundle, chosen in zip(bundles, choose_groups(bundles, budget), strict=True):
        for layer, mask in zip(bundle.layers, bundle.masks(chosen), strict=True):
            layer.mask.assign(mask)
