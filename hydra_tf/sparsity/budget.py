"""Whole numbers of weights that meet a budget exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping

_ROUNDING = 1e-9  # relative error of a share times a number of weights


def exact_counts(
    ideal: Mapping[str, float],
    sizes: Mapping[str, int],
    floors: Mapping[str, int],
    total: int,
) -> dict[str, int]:
    """Return a whole number of weights for each layer, which add up to the budget.

    Numbers are rounded down, and the layers with the largest remainders get one weight more, ties
    by name. If a floor or the size of a layer changes its number, all others are scaled by one
    factor.

    Args:
        ideal: number of weights of each layer, not rounded, above 0.
        sizes: number of weights that each layer has.
        floors: smallest number of weights of each layer, at most its size.
        total: the budget.

    Raises:
        ValueError: for a budget below the sum of the floors; the sentence names the smallest
            density that can be met.

    Example:
        >>> exact_counts({"a": 1.5, "b": 2.5}, {"a": 9, "b": 9}, {"a": 1, "b": 1}, 4)
        {'a': 2, 'b': 2}
    """
    least, whole = sum(floors.values()), sum(sizes.values())
    if total < least:
        raise ValueError(
            f"A budget of {total} of {whole} weights is too small: the layers keep at least "
            f"{least}, a density of {_density_of(least, whole)}; choose a larger density."
        )
    if total == whole:
        return dict(sizes)
    factor = _factor(ideal, sizes, floors, total)
    exact = {
        name: min(max(factor * value, floors[name]), sizes[name]) for name, value in ideal.items()
    }
    counts = {name: math.floor(value * (1 + _ROUNDING)) for name, value in exact.items()}
    left = total - sum(counts.values())
    ranked = sorted(exact, key=lambda name: (round(counts[name] - exact[name], 9), name))
    while left > 0:
        for name in ranked:
            if left and counts[name] < sizes[name]:
                counts[name] += 1
                left -= 1
    for name in reversed(ranked):  # rounding errors may have added one too many
        if left < 0 and counts[name] > floors[name]:
            counts[name] -= 1
            left += 1
    return counts


def _density_of(kept: int, size: int) -> float:
    """Return a short density that keeps at least this number of weights."""
    digits = 1
    while (density := math.ceil(kept / size * 10**digits) / 10**digits) > 1.1 * kept / size:
        digits += 1
    return min(1.0, density)


def _factor(
    ideal: Mapping[str, float],
    sizes: Mapping[str, int],
    floors: Mapping[str, int],
    total: int,
) -> float:
    """Return the factor by which the numbers, within floors and sizes, add up to the budget."""

    def kept(factor: float) -> float:
        return sum(
            min(max(factor * value, floors[name]), sizes[name]) for name, value in ideal.items()
        )

    if abs(kept(1.0) - total) <= _ROUNDING * total:
        return 1.0
    low, high = 0.0, max(sizes[name] / value for name, value in ideal.items())
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kept(middle) < total else (low, middle)
    return high
