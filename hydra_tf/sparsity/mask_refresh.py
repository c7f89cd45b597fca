"""Masks that are chosen again from the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from hydra_tf.core.lazy import keras, tf
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.masked_kernels import MaskedLike, masked_layers
from hydra_tf.sparsity.tied_channels import Tie, tied_channels
from hydra_tf.sparsity.topk import largest_together, magnitudes

_GROUP = 500_000  # weights whose masks are chosen at the same time


def refresh_masks(model: keras.Model, kept: Sequence[int | tf.Tensor] | None = None) -> None:
    """Choose the mask of every layer again from its scores.

    In a graph, large layers are processed one after the other, after all scores are updated. In
    parallel, and while gradients are in memory, they would need several times the memory of the
    network and not be faster. Small layers are processed in parallel. Layers with tied channels
    are processed together; see :mod:`hydra_tf.sparsity.tied_channels`.

    Args:
        model: a model with masked layers.
        kept: number of weights that each mask keeps, whole numbers or scalar integers; as many as
            now when left out.

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
    ties = tied_channels(model, [GRANULARITIES.build(layer.granularity) for layer in layers])
    chosen = {id(kernel.layer) for tie in ties for kernel in tie.kernels}
    joint = [layer for layer in layers if layer.selection.joint]
    chosen |= {id(layer) for layer in joint}
    before: list[tf.Tensor] = [tf.convert_to_tensor(layer.scores) for layer in layers]
    for group in _groups([*ties, *(layer for layer in layers if id(layer) not in chosen)]):
        with tf.control_dependencies(before):
            before = [mask for part in group for mask in _refreshed(part, counts)]
    if joint:
        with tf.control_dependencies(before):
            _choose_together(joint, _total(joint, counts))


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


def _choose_together(layers: Sequence[MaskedLike], kept: int | tf.Tensor) -> None:
    """Choose the masks of layers that compete with one another; ties go to the lowest label."""
    ranked = sorted(layers, key=lambda layer: layer.label)
    bits = [
        magnitudes(layer.selection.ranked(tf.convert_to_tensor(layer.scores))) for layer in ranked
    ]
    for layer, chosen in zip(ranked, largest_together(bits, kept), strict=True):
        layer.mask.assign(tf.reshape(chosen, layer.mask.shape))
