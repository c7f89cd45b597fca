"""Groups of weights of all layers that compete for one budget, as ``"global"`` ranks them.

The rank of a group is the mean magnitude of its scores, so that large groups have no advantage. The
groups are taken in the order of their ranks, each if the rest of the budget suffices for its
weights, until it suffices for no other. Groups of one size are therefore those of one exact top-k;
with several sizes, less is left of the budget than one more group of any layer has weights. Layers
with tied channels are like one layer, a group of which has the weights of one channel in all of
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity
from hydra_tf.sparsity.masked_kernels import MaskedLike
from hydra_tf.sparsity.selection import Selection
from hydra_tf.sparsity.tied_channels import Tie
from hydra_tf.sparsity.topk import count_kept, largest_together, magnitudes

_TAKEN = -1  # below the magnitude of any rank


@dataclass(frozen=True, eq=False)
class Bundle:
    """The groups of a layer, or of layers with tied channels.

    Args:
        layers: the layer, or those of the tie.
        part: granularity of the layer.
        selection: which groups always have a place.
        tie: the tie, None for a single layer.
    """

    layers: tuple[MaskedLike, ...]
    part: Granularity
    selection: Selection
    tie: Tie | None = None

    @property
    def label(self) -> str:
        """The lowest label of the layers."""
        return min(layer.label for layer in self.layers)

    @property
    def price(self) -> int:
        """Number of weights of a group."""
        if self.tie is not None:
            return self.tie.unit
        (layer,) = self.layers
        return self.part.unit(tuple(layer.kernel.shape), layer.axes)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return sum(math.prod(layer.kernel.shape) for layer in self.layers) // self.price

    def ranks(self, one: bool = True) -> tf.Tensor:
        """Return the rank of each group, float32 [groups]; infinite if it is always kept.

        Args:
            one: whether a floor of a single weight counts; a larger one always does.
        """
        selection = self.selection
        if self.tie is not None:
            return selection.ranked(self.tie.scores() / self.price)
        (layer,) = self.layers
        scores = tf.convert_to_tensor(layer.scores)
        if self.price == 1:
            floored = one or selection.min_kept > 1
            ranked = (selection if floored else selection.alone()).ranked(scores)
            return tf.reshape(ranked, [-1])
        # A group with the largest score of an output becomes infinite by it.
        sums = self.part.group_scores(selection.alone().ranked(scores), layer.axes)
        means = tf.reshape(sums, [-1]) / self.price
        floor = selection.floor(means)
        return means if floor is None else tf.where(floor, np.float32(np.inf), means)

    def masks(self, chosen: tf.Tensor) -> list[tf.Tensor]:
        """Return the mask of each layer.

        Args:
            chosen: booleans [groups], the groups that are kept.
        """
        if self.tie is not None:
            return [kernel.spread(chosen) for kernel in self.tie.kernels]
        (layer,) = self.layers
        shape, axes = tuple(layer.kernel.shape), layer.axes
        window = self.part.window(shape, axes)
        chosen = tf.reshape(chosen, [n // w for n, w in zip(shape, window, strict=True)])
        return [self.part.group_mask(chosen, shape, axes)]


def bundles_of(
    layers: Sequence[MaskedLike],
    parts: Sequence[Granularity],
    selections: Sequence[Selection],
    ties: Sequence[Tie],
) -> list[Bundle]:
    """Return the bundles of the joint layers, in the order in which ties are broken: by label.

    Args:
        layers: the masked layers of a model.
        parts: granularity of each layer.
        selections: selection of each layer.
        ties: ties of the layers.
    """
    own = {id(k): (p, s) for k, p, s in zip(layers, parts, selections, strict=True)}
    found, tied = [], set()
    for tie in ties:
        members = tuple(kernel.layer for kernel in tie.kernels)
        tied |= {id(layer) for layer in members}
        found.append(Bundle(members, *own[id(members[0])], tie))
    found += [Bundle((k,), *own[id(k)]) for k in layers if id(k) not in tied]
    joint = [bundle for bundle in found if bundle.selection.joint]
    return sorted(joint, key=lambda bundle: bundle.label)


def choose_groups(bundles: Sequence[Bundle], budget: int | tf.Tensor) -> list[tf.Tensor]:
    """Return which groups of each bundle are kept.

    Args:
        bundles: as :func:`bundles_of` returns them.
        budget: number of weights, a whole number or a scalar int32 tensor, which is not exceeded.

    Returns:
        Booleans [groups] for each bundle.
    """
    prices = [bundle.price for bundle in bundles]
    single = set(prices) == {1}
    ranks = [magnitudes(bundle.ranks(one=not single)) for bundle in bundles]
    if single:  # keeping one of each here is several times faster than by infinite ranks
        return largest_together(ranks, budget, one_each=True)
    chosen = largest_together(ranks, budget, prices)
    return chosen if len(set(prices)) == 1 else _filled(chosen, ranks, prices, budget)


def _filled(
    chosen: Sequence[tf.Tensor],
    ranks: Sequence[tf.Tensor],
    prices: Sequence[int],
    budget: int | tf.Tensor,
) -> list[tf.Tensor]:
    """Return groups with those added that the rest of the budget suffices for, the best first.

    The rest is smaller than the largest price, so that a few groups of each bundle come into
    question.
    """
    left = budget - tf.add_n([p * count_kept(c) for p, c in zip(prices, chosen, strict=True)])
    sizes = [
        min(own.shape[0], (max(prices) - 1) // p) for p, own in zip(prices, ranks, strict=True)
    ]
    best = [
        tf.math.top_k(tf.where(taken, _TAKEN, own), size)
        for taken, own, size in zip(chosen, ranks, sizes, strict=True)
    ]
    candidates = tf.concat([found.values for found in best], 0)
    order = tf.argsort(candidates, direction="DESCENDING", stable=True)
    costs = tf.gather(np.repeat(np.array(prices, np.int32), sizes), order)
    taken = _affordable(tf.gather(candidates, order) != _TAKEN, costs, left)
    added = tf.scatter_nd(order[:, None], taken, [sum(sizes)])
    return [
        tf.tensor_scatter_nd_update(before, at[:, None], tf.gather(before, at) | new)
        for before, at, new in zip(
            chosen, (found.indices for found in best), tf.split(added, sizes), strict=True
        )
    ]


def _affordable(candidates: tf.Tensor, costs: tf.Tensor, budget: tf.Tensor) -> tf.Tensor:
    """Return which candidates are bought, in their order, each if what is left suffices for it.

    Args:
        candidates: booleans, which may be bought.
        costs: price of each, int32.
        budget: what they may cost together, a scalar int32.
    """

    def fitting(taken: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
        return candidates & ~taken & (costs <= left)

    def buy(taken: tf.Tensor, left: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Up to the first that does not fit, and with it no other of its price or above.
        fits = fitting(taken, left)
        paid = tf.cumsum(tf.where(fits, costs, 0))
        bought = fits & (paid <= left)
        return taken | bought, left - tf.reduce_max(tf.where(bought, paid, 0))

    start = (tf.zeros_like(candidates), budget)
    return tf.while_loop(lambda *state: tf.reduce_any(fitting(*state)), buy, start)[0]


def joint_budget(bundles: Sequence[Bundle]) -> tf.Tensor:
    """Return the budget of the bundles: that of the density that was set, a scalar int32 tensor.

    If the masks were changed since, or come from a file without a budget, it is what they keep.

    Args:
        bundles: the bundles of a model.
    """
    layers = [layer for bundle in bundles for layer in bundle.layers]
    kept = tf.add_n([layer.kept() for layer in layers])
    largest = max(bundle.price for bundle in bundles)
    if largest == 1:
        return kept
    # All layers store the same number; a layer that was changed alone stores 0.
    stored = tf.reduce_min(tf.stack([tf.convert_to_tensor(k.joint_budget) for k in layers]))
    rest = stored - kept
    return tf.where((rest >= 0) & (rest < largest), stored, kept)


def is_grouped(layer: MaskedLike) -> bool:
    """Return whether a layer keeps or prunes groups of several weights, perhaps of several layers.

    Args:
        layer: a masked layer.

    Example:
        >>> from hydra_tf.layers import MaskedDense
        >>> layer = MaskedDense(3, granularity="block:size=2")
        >>> layer.build((None, 4))
        >>> is_grouped(layer)
        True
    """
    part = GRANULARITIES.build(layer.granularity)
    return bool(part.channel_axes) or part.unit(tuple(layer.kernel.shape), layer.axes) > 1
