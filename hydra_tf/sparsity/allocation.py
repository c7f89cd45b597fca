"""Allocations: the density of each layer, given the density of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from hydra_tf.core.registry import Registry
from hydra_tf.sparsity.topk import kept_count

Scores: TypeAlias = Mapping[str, np.ndarray[Any, Any]]  # the scores of each layer by its name


class Allocation(Protocol):
    """Maps the scores of all layers and the density of the network to a density per layer.

    The result does not depend on the order of the layers.
    """

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the density of each named layer, each in (0, 1]."""


ALLOCATIONS: Registry[Allocation] = Registry("allocation", "hydra_tf.sparsity")


@ALLOCATIONS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """The same density for every layer, as in arXiv 2002.10509."""

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return `density` for each layer."""
        return dict.fromkeys(scores, density)


@ALLOCATIONS.register("largest")
@dataclass(frozen=True)
class Largest:
    """The largest scores of the whole network are kept, and at least one in every layer.

    Ties go to the lowest layer name, then to the lowest index. Scores of different layers are
    compared directly, which suits unscaled scores (``"magnitude"``, ``"snip"``) better than
    ``"scaled"``.
    """

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the share of each layer's weights that are among the largest."""
        names = sorted(scores)
        sizes = [scores[name].size for name in names]
        magnitudes = np.concatenate([np.abs(scores[name]).ravel() for name in names])
        layer = np.repeat(np.arange(len(names)), sizes)
        largest = np.argsort(-magnitudes, kind="stable")[: kept_count(density, magnitudes.size)]
        counts = np.bincount(layer[largest], minlength=len(names))
        shares = {
            name: float(max(1, count) / size)
            for name, size, count in zip(names, sizes, counts, strict=True)
        }
        return {name: shares[name] for name in scores}


@ALLOCATIONS.register("erk")
@dataclass(frozen=True)
class ErdosRenyiKernel:
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


def allocate(
    allocation: str | Mapping[str, Any] | Allocation, scores: Scores, density: float
) -> dict[str, float]:
    """Return the density of each layer, and check that it is valid.

    Args:
        allocation: a registered name (``"uniform"``, ``"largest"``, ``"erk"``), a mapping from
            layer names to densities, or a callable ``(scores, density) -> mapping``.
        scores: scores of each layer, by its name.
        density: share of all weights to keep, in (0, 1].

    Raises:
        ValueError: for a mapping that does not name exactly the masked layers, or a density
            outside (0, 1].

    Example:
        >>> allocate("uniform", {"a": np.ones(4)}, 0.5)
        {'a': 0.5}
    """
    if isinstance(allocation, Mapping) and "name" not in allocation:
        shares = dict(allocation)
    else:
        shares = ALLOCATIONS.build(allocation)(scores, density)
    if set(shares) != set(scores):
        raise ValueError(
            f"The allocation names the layers {sorted(shares)}, but the masked layers are "
            f"{sorted(scores)}."
        )
    invalid = {name: share for name, share in shares.items() if not 0 < share <= 1}
    if invalid:
        raise ValueError(
            f"The densities of layers must lie in (0, 1]; the allocation returned {invalid}."
        )
    return shares
