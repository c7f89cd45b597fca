"""Allocations: the number of weights that each layer keeps, given the density of the network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from hydra_tf.core.registry import Registry
from hydra_tf.core.types import require_number
from hydra_tf.sparsity.budget import cost_of, exact_counts, smallest_counts, whole_groups
from hydra_tf.sparsity.given_densities import (
    Scores,
    by_name,
    require_densities,
    warn_of_changed,
    with_fixed,
)
from hydra_tf.sparsity.topk import kept_count


@dataclass(frozen=True)
class Allocation:
    """Maps the scores of all layers and the density of the network to a density per layer.

    The densities are shares of a budget, which :func:`kept_per_layer` rounds to whole weights that
    add up to the budget exactly.

    Args:
        min_kept: number of weights, or groups of weights, that every layer keeps at least; all of a
            smaller layer.
        every_output: whether the last layer keeps at least one weight or group of each output.

    Raises:
        ValueError: for `min_kept` below 1.
    """

    min_kept: int = 1
    every_output: bool = False
    joint: ClassVar[bool] = False  # true if all layers are ranked together at every step
    uses_order: ClassVar[bool] = False  # true if densities depend on the order of the layers

    def __post_init__(self) -> None:
        require_number("min_kept", self.min_kept, whole=True)
        if self.min_kept < 1:
            raise ValueError(f"min_kept must be at least 1 weight, not {self.min_kept}.")

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the density of each layer, above 0.

        Args:
            scores: scores of each layer by its name, in the order of the layers.
            density: share of all weights to keep, in (0, 1].
        """
        raise NotImplementedError


AllocationSpec: TypeAlias = (
    str | Mapping[str, Any] | Allocation | Callable[[Scores, float], Mapping[str, float]]
)

ALLOCATIONS: Registry[Allocation] = Registry("allocation", "hydra_tf.sparsity")


@ALLOCATIONS.register("uniform")
@dataclass(frozen=True)
class Uniform(Allocation):
    """The same density for every layer, as in arXiv 2002.10509.

    Args:
        per_layer: whether each layer rounds its own number of weights, as in the paper; the
            network then misses its density by a few weights.
    """

    per_layer: bool = False

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return `density` for each layer."""
        return dict.fromkeys(scores, density)


@ALLOCATIONS.register("uniform_plus")
@dataclass(frozen=True)
class UniformPlus(Allocation):
    """Uniform, but for a dense first layer and a last layer of at least 20% (Gale et al., 2019).

    Args:
        last: smallest density of the last layer, in (0, 1].

    Raises:
        ValueError: for a density outside (0, 1], and for a budget that these two layers exceed.
    """

    last: float = 0.2
    uses_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        kept_count(self.last, 1)

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the densities; a network of one or two layers is uniform."""
        if len(scores) < 3:
            return dict.fromkeys(scores, density)
        first, *_, last = scores
        return with_fixed(scores, density, {last: max(self.last, density), first: 1.0})


@ALLOCATIONS.register("erk")
@dataclass(frozen=True)
class ErdosRenyiKernel(Allocation):
    """Density in proportion to ``sum(shape) / prod(shape)`` (Evci et al., ICML 2020).

    Layers whose density would exceed 1 are kept whole, and the rest of the budget is allocated
    to the other layers, so that the density of the network is met.
    """

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the densities of the Erdos-Renyi kernel."""
        sizes = {name: values.size for name, values in scores.items()}
        weights = {name: sum(scores[name].shape) / size for name, size in sizes.items()}
        budget = density * sum(sizes.values())
        whole: set[str] = set()
        while True:
            pruned = [name for name in sizes if name not in whole]
            if not pruned:
                return dict.fromkeys(sizes, 1.0)
            rest = budget - sum(sizes[name] for name in whole)
            factor = rest / sum(weights[name] * sizes[name] for name in pruned)
            exceeding = {name for name in pruned if factor * weights[name] > 1}
            if not exceeding:
                return {k: 1.0 if k in whole else factor * weights[k] for k in sizes}
            whole |= exceeding


@ALLOCATIONS.register("lamp")
@dataclass(frozen=True)
class Lamp(Allocation):
    """The weights of largest LAMP score in the whole network (Lee et al., ICLR 2021).

    The LAMP score of a weight is its squared score, divided by the sum of the squared scores of its
    layer that are not smaller. It does not depend on the scale of a layer, and the largest weight
    of each layer has the score 1.
    """

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the share of each layer's weights that are among the largest."""
        ranks = {}
        for name, values in scores.items():
            falling = -np.sort(-np.abs(np.asarray(values, np.float32)).ravel())
            squares = falling.astype(np.float64) ** 2
            ranks[name] = squares / np.maximum(np.cumsum(squares), np.finfo(np.float64).tiny)
        return _shares_of_largest(ranks, density)


@ALLOCATIONS.register("global")
@dataclass(frozen=True)
class Global(Allocation):
    """The largest scores of the whole network, chosen again at every step of the prune phase.

    Scores of different layers are compared as they are. Those of the initialisation ``"scaled"``
    have the same range in layers of the same number of inputs, and a larger one in layers of fewer
    inputs. Groups of weights are compared by their mean scores; see
    :mod:`hydra_tf.sparsity.joint_groups`.
    """

    joint: ClassVar[bool] = True

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the share of each layer's weights that are among the largest."""
        ranks = {name: np.abs(np.asarray(values)).ravel() for name, values in scores.items()}
        return _shares_of_largest(ranks, density)


@ALLOCATIONS.register("largest")
@dataclass(frozen=True)
class Largest(Global):
    """Deprecated name of ``"global"``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        warnings.warn(
            'The allocation "largest" is deprecated; use "global".',
            DeprecationWarning,
            stacklevel=2,
        )


def _shares_of_largest(
    ranks: Mapping[str, np.ndarray[Any, Any]], density: float
) -> dict[str, float]:
    """Return the share of each layer's values that are among the largest; one value at least.

    Ties go to the lowest layer name.
    """
    names = sorted(ranks)
    total = kept_count(density, sum(values.size for values in ranks.values()))
    every = np.concatenate([ranks[name] for name in names])
    threshold = np.partition(every, every.size - total)[every.size - total]
    counts = {name: int(np.sum(ranks[name] > threshold)) for name in names}
    left = total - sum(counts.values())
    for name in names:
        ties = min(left, int(np.sum(ranks[name] == threshold)))
        counts[name] += ties
        left -= ties
    return {name: max(1, counts[name]) / values.size for name, values in ranks.items()}


def kept_per_layer(
    allocation: AllocationSpec,
    scores: Scores,
    density: float,
    outputs: int = 1,
    costs: Mapping[str, int] | None = None,
    units: Mapping[str, int] | None = None,
    tied: Sequence[Sequence[str]] = (),
) -> dict[str, int]:
    """Return the number of weights that each layer keeps.

    The numbers add up to ``max(1, round(density * n))`` of all n weights, unless the allocation
    rounds the number of each layer. With costs, they cost at most the share `density` of the whole.
    Layers that keep groups of weights keep whole ones, and the budget is not exceeded.

    Args:
        allocation: a registered name or part; a mapping from layer names, or patterns of them, to
            densities, whose other layers share the rest of the budget; or a callable
            ``(scores, density) -> mapping`` with the density of every layer.
        scores: scores of each layer by its name, in the order of the layers.
        density: share of all weights to keep, in (0, 1].
        outputs: number of outputs of the last layer.
        costs: multiply-adds of one weight of each layer, for a budget of multiply-adds.
        units: number of weights of a group of each layer; 1 when left out.
        tied: names of layers that keep the same number of groups, and share their budgets.

    Raises:
        ValueError: for an unknown name, a density outside (0, 1], a budget that cannot be met, or a
            mapping that contradicts it or does not name the layers.

    Example:
        >>> kept_per_layer("uniform", {"a": np.ones(15), "b": np.ones(25)}, 0.1)
        {'a': 2, 'b': 2}
    """
    sizes = {name: values.size for name, values in scores.items()}
    units = units or dict.fromkeys(sizes, 1)
    part = allocation_of(allocation)
    fixed = by_name(part, scores) if isinstance(part, Mapping) else {}
    if isinstance(part, Mapping):
        shares: Mapping[str, float] = with_fixed(scores, density, fixed)
    else:
        shares = part(scores, density)
        require_densities(shares, scores)
        if not isinstance(part, Allocation):
            shares = with_fixed(scores, density, shares)
    if getattr(part, "per_layer", False):
        counts = {name: kept_count(share, sizes[name]) for name, share in shares.items()}
        return whole_groups(counts, sizes, units, tied=tied)
    ideal = {name: shares[name] * size for name, size in sizes.items()}
    floors = smallest_counts(part, sizes, outputs, units)
    total = kept_count(density, sum(sizes.values()))
    if costs is not None:
        total = math.floor(density * cost_of(sizes, costs) * (1 + 1e-12))
    counts = exact_counts(ideal, sizes, floors, total, costs)
    counts = whole_groups(counts, sizes, units, total, costs, tied)
    warn_of_changed({name: ideal[name] for name in fixed}, counts, units)
    return counts


def allocation_of(allocation: AllocationSpec) -> Any:
    """Return the allocation that a spec names; a mapping of densities is returned unchanged.

    Args:
        allocation: as for :func:`kept_per_layer`.

    Raises:
        ValueError: for an unknown name or parameter.
        TypeError: for something that is not an allocation.

    Example:
        >>> allocation_of("erk:min_kept=4").min_kept
        4
    """
    if isinstance(allocation, Mapping) and "name" not in allocation:
        return allocation
    return ALLOCATIONS.build(allocation)
