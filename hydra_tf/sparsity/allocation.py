"""How a network's density is shared out among its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hydra_tf.core.registry import Registry


class Allocation(Protocol):
    """Maps the layers' scores and a total density to one density per layer."""

    def __call__(
        self, scores: Mapping[str, np.ndarray[Any, Any]], density: float
    ) -> dict[str, float]:
        """Return the density of each named layer, each in (0, 1]."""


ALLOCATIONS: Registry[Allocation] = Registry("allocation", "hydra_tf.sparsity")


@ALLOCATIONS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """The same density for every layer (the paper's choice)."""

    def __call__(
        self, scores: Mapping[str, np.ndarray[Any, Any]], density: float
    ) -> dict[str, float]:
        """Return `density` for each layer."""
        return dict.fromkeys(scores, density)


@ALLOCATIONS.register("largest")
@dataclass(frozen=True)
class Largest:
    """One ranking over the whole network: a layer keeps what it has among the largest.

    Every layer keeps at least one weight. Scores of different layers are compared as they
    are, so this fits unscaled scores (``"magnitude"``, ``"snip"``) better than ``"scaled"``.
    """

    def __call__(
        self, scores: Mapping[str, np.ndarray[Any, Any]], density: float
    ) -> dict[str, float]:
        """Return each layer's share of the network's largest scores."""
        flat = np.concatenate([np.abs(values).ravel() for values in scores.values()])
        owner = np.repeat(np.arange(len(scores)), [values.size for values in scores.values()])
        order = np.argsort(-flat, kind="stable")[: max(1, round(density * flat.size))]
        counts = np.bincount(owner[order], minlength=len(scores))
        return {
            name: float(max(1, count) / values.size)
            for (name, values), count in zip(scores.items(), counts, strict=True)
        }


@ALLOCATIONS.register("erk")
@dataclass(frozen=True)
class ErdosRenyiKernel:
    """Density in proportion to ``sum(shape) / prod(shape)`` (Evci et al., ICML 2020).

    Layers that would pass 1 are kept whole and the rest is shared out again, so that the
    total stays what was asked for.
    """

    def __call__(
        self, scores: Mapping[str, np.ndarray[Any, Any]], density: float
    ) -> dict[str, float]:
        """Return the Erdos-Renyi-kernel densities."""
        shapes: dict[str, Sequence[int]] = {k: v.shape for k, v in scores.items()}
        sizes = {k: v.size for k, v in scores.items()}
        weights = {k: sum(shape) / sizes[k] for k, shape in shapes.items()}
        budget = density * sum(sizes.values())
        whole: set[str] = set()
        while True:
            open_layers = [k for k in sizes if k not in whole]
            if not open_layers:
                return dict.fromkeys(sizes, 1.0)
            left = budget - sum(sizes[k] for k in whole)
            factor = left / sum(weights[k] * sizes[k] for k in open_layers)
            full = {k for k in open_layers if factor * weights[k] > 1}
            if not full:
                return {k: 1.0 if k in whole else factor * weights[k] for k in sizes}
            whole |= full


def allocate(
    allocation: Any, scores: Mapping[str, np.ndarray[Any, Any]], density: float
) -> dict[str, float]:
    """Return a density per layer, checked.

    Args:
        allocation: a registered name (``"uniform"``, ``"largest"``, ``"erk"``), a mapping
            from layer name to density, or a callable ``(scores, density) -> mapping``.
        scores: scores of each layer by name.
        density: share of all weights to keep, in (0, 1].

    Raises:
        ValueError: when a layer is missing from a mapping, or a density lies outside (0, 1].

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
            f"The allocation names the layers {sorted(shares)}; the masked layers are "
            f"{sorted(scores)}."
        )
    bad = {name: share for name, share in shares.items() if not 0 < share <= 1}
    if bad:
        raise ValueError(f"The densities of layers must lie in (0, 1]; the allocation gave {bad}.")
    return shares
