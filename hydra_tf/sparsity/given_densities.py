"""Densities of layers that are given instead of computed by an allocation."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from absl import logging

Scores: TypeAlias = Mapping[str, np.ndarray[Any, Any]]  # the scores of each layer by its name


def with_fixed(scores: Scores, density: float, fixed: Mapping[str, float]) -> dict[str, float]:
    """Return densities of which some are given, and the others share the rest of the budget.

    Args:
        scores: scores of each layer by its name.
        density: share of all weights to keep, in (0, 1].
        fixed: densities of some layers, or of all.

    Raises:
        ValueError: for fixed densities that leave too little or too much for the other layers.

    Example:
        >>> with_fixed({"a": np.ones(4), "b": np.ones(8)}, 0.5, {"a": 1.0})
        {'a': 1.0, 'b': 0.25}
    """
    sizes = {name: values.size for name, values in scores.items()}
    asked = sum(share * sizes[name] for name, share in fixed.items())
    others = [name for name in sizes if name not in fixed]
    rest, room = density * sum(sizes.values()) - asked, sum(sizes[name] for name in others)
    # Each density may be rounded to a whole weight.
    if rest > room + len(fixed) or rest < (len(others) if others else -len(fixed)):
        low, high = (
            (asked + len(others)) / sum(sizes.values()),
            (asked + room) / sum(sizes.values()),
        )
        raise ValueError(
            f"With the densities {dict(fixed)}, the network has a density from {low:.6g} to "
            f"{high:.6g}, which contradicts density={density:g}; change one of them."
        )
    shared = min(1.0, rest / room) if room else 0.0
    return {name: fixed.get(name, shared) for name in sizes}


def by_name(densities: Mapping[str, float], scores: Scores) -> dict[str, float]:
    """Return the densities of the layers that a mapping names or matches; names come first.

    Args:
        densities: density in (0, 1] by name of a layer or of a kernel, or by pattern of names.
        scores: scores of each layer by its name.

    Raises:
        ValueError: for a name that no layer has, or a density outside (0, 1].

    Example:
        >>> by_name({"conv*": 0.3, "conv2": 1.0}, {"conv1": np.ones(4), "conv2": np.ones(4)})
        {'conv1': 0.3, 'conv2': 1.0}
    """
    fixed: dict[str, float] = {}
    for pattern, share in densities.items():
        names = [n for n in scores if n == pattern or n.startswith(f"{pattern}/")]
        names = names or [
            n for n in scores if fnmatch.fnmatchcase(n, pattern) and n not in densities
        ]
        if not names:
            raise ValueError(
                f'The allocation names the layer "{pattern}", but the masked layers are '
                f"{sorted(scores)}."
            )
        fixed.update(dict.fromkeys(names, share))
    require_densities(fixed, {name: scores[name] for name in fixed})
    return fixed


def require_densities(shares: Mapping[str, float], scores: Scores) -> None:
    """Check that each layer, and nothing else, has a density in (0, 1].

    Args:
        shares: density by name of the layer.
        scores: scores of each layer by its name.

    Raises:
        ValueError: for other names or densities.

    Example:
        >>> require_densities({"a": 0.5}, {"a": np.ones(4)})
    """
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


def warn_of_changed(
    asked: Mapping[str, float], counts: Mapping[str, int], units: Mapping[str, int]
) -> None:
    """Warn of layers that keep other numbers of weights than asked for, by a group or more.

    Args:
        asked: number of weights by name of the layer.
        counts: number of weights that each layer keeps.
        units: number of weights of a group of each layer.

    Example:
        >>> warn_of_changed({"a": 7.6}, {"a": 8}, {"a": 4})
    """
    for name, number in asked.items():
        if abs(counts[name] - number) >= units[name]:
            logging.warning(
                "hydra_tf: layer %s keeps %d weights, not the %g of its density, because all "
                "layers keep whole groups of weights within one budget.",
                name,
                counts[name],
                number,
            )
