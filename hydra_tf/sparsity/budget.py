"""Whole numbers of weights that meet a budget exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_ROUNDING = 1e-9  # relative error of a share times a number of weights


def exact_counts(
    ideal: Mapping[str, float],
    sizes: Mapping[str, int],
    floors: Mapping[str, int],
    total: int,
    costs: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return a whole number of weights for each layer, which add up to the budget.

    Numbers are rounded down, and the layers with the largest remainders get one weight more, ties
    by name. If a floor or the size of a layer changes its number, all others are scaled by one
    factor. If weights have costs, the budget is never exceeded, and less is left than one more
    weight of any layer that is not whole would cost.

    Args:
        ideal: number of weights of each layer, not rounded, above 0.
        sizes: number of weights that each layer has.
        floors: smallest number of weights of each layer, at most its size.
        total: the budget, a number of weights; with costs, of multiply-adds.
        costs: multiply-adds of one weight of each layer; one each when left out.

    Raises:
        ValueError: for a budget below the sum of the floors; the sentence names the smallest
            density that can be met.

    Example:
        >>> exact_counts({"a": 1.5, "b": 2.5}, {"a": 9, "b": 9}, {"a": 1, "b": 1}, 4)
        {'a': 2, 'b': 2}
    """
    require_budget(total, floors, sizes, costs)
    costs = costs or dict.fromkeys(sizes, 1)
    if total == cost_of(sizes, costs):
        return dict(sizes)
    factor = _factor(ideal, sizes, floors, total, costs)
    exact = {
        name: min(max(factor * value, floors[name]), sizes[name]) for name, value in ideal.items()
    }
    counts = {name: math.floor(value * (1 + _ROUNDING)) for name, value in exact.items()}
    left = total - cost_of(counts, costs)
    ranked = sorted(exact, key=lambda name: (round(counts[name] - exact[name], 9), name))
    while any(costs[name] <= left and counts[name] < sizes[name] for name in ranked):
        for name in ranked:
            if costs[name] <= left and counts[name] < sizes[name]:
                counts[name] += 1
                left -= costs[name]
    for name in reversed(ranked):  # rounding errors may have added one too many
        if left < 0 and counts[name] > floors[name]:
            counts[name] -= 1
            left += costs[name]
    return counts


def require_budget(
    total: int,
    floors: Mapping[str, int],
    sizes: Mapping[str, int],
    costs: Mapping[str, int] | None = None,
) -> None:
    """Check that a budget suffices for what every layer keeps at least.

    Args:
        total: see :func:`exact_counts`.
        floors: see :func:`exact_counts`.
        sizes: see :func:`exact_counts`.
        costs: see :func:`exact_counts`.

    Raises:
        ValueError: if it does not; the sentence names the smallest density that does.

    Example:
        >>> require_budget(2, {"a": 1, "b": 1}, {"a": 9, "b": 9})
    """
    unit = "weights" if costs is None else "multiply-adds"
    costs = costs or dict.fromkeys(sizes, 1)
    least, whole = cost_of(floors, costs), cost_of(sizes, costs)
    if total < least:
        raise ValueError(
            f"A budget of {total} of {whole} {unit} is too small: the layers keep at least "
            f"{least}, a density of {_density_of(least, whole)}; choose a larger density."
        )


def smallest_counts(
    part: Any, sizes: Mapping[str, int], outputs: int, units: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the smallest number of weights that an allocation keeps in each layer.

    Args:
        part: an allocation; one without ``min_kept`` and ``every_output`` keeps one weight.
        sizes: number of weights of each layer by its name, in the order of the layers.
        outputs: number of outputs of the last layer.
        units: number of weights of a group of each layer; 1 when left out.

    Example:
        >>> from hydra_tf.sparsity.allocation import Uniform
        >>> smallest_counts(Uniform(min_kept=2, every_output=True), {"a": 1, "b": 9}, 3)
        {'a': 1, 'b': 3}
    """
    floors = dict.fromkeys(sizes, getattr(part, "min_kept", 1))
    if getattr(part, "every_output", False):
        last = list(sizes)[-1]
        floors[last] = max(floors[last], outputs)
    units = units or dict.fromkeys(sizes, 1)
    return {name: min(floor * units[name], sizes[name]) for name, floor in floors.items()}


def cost_of(counts: Mapping[Any, float], costs: Mapping[Any, int]) -> Any:
    """Return the cost of the weights of all layers.

    Args:
        counts: number of weights of each layer.
        costs: cost of one weight of each layer.

    Example:
        >>> cost_of({"a": 2, "b": 3}, {"a": 10, "b": 1})
        23
    """
    return sum(costs[name] * count for name, count in counts.items())


def whole_groups(
    counts: Mapping[str, int],
    sizes: Mapping[str, int],
    units: Mapping[str, int],
    total: int | None = None,
    costs: Mapping[str, int] | None = None,
    tied: Sequence[Sequence[str]] = (),
) -> dict[str, int]:
    """Return numbers of weights rounded down to whole groups, at least one group per layer.

    What is left of the budget is used for one more group of each layer that it suffices for, the
    layers with the largest remainders first, ties by name. Tied layers are like one layer, whose
    groups have a group of each of them.

    Args:
        counts: number of weights of each layer.
        sizes: number of weights that each layer has, a multiple of its unit.
        units: number of weights of a group of each layer.
        total: the budget, which is not exceeded; None if layers are rounded down only.
        costs: multiply-adds of one weight of each layer, if `total` is a number of those; one each
            when left out.
        tied: names of layers that keep the same number of groups, and have equally many.

    Example:
        >>> whole_groups({"a": 5, "b": 7}, {"a": 8, "b": 8}, {"a": 2, "b": 4}, 12)
        {'a': 4, 'b': 8}
        >>> sizes, units = {"a": 8, "b": 16}, {"a": 2, "b": 4}  # four groups of 2 + 4
        >>> whole_groups({"a": 7, "b": 6}, sizes, units, 13, tied=[("a", "b")])
        {'a': 4, 'b': 8}
    """
    costs = costs or dict.fromkeys(sizes, 1)
    among_tied = {name for names in tied for name in names}
    bundles = [tuple(names) for names in tied] + [(n,) for n in sizes if n not in among_tied]
    prices = {names: sum(units[n] * costs[n] for n in names) for names in bundles}
    spent = {names: sum(counts[n] * costs[n] for n in names) for names in bundles}
    groups = {names: max(1, spent[names] // prices[names]) for names in bundles}
    if total is not None:
        left = total - cost_of(groups, prices)
        most = {names: sizes[names[0]] // units[names[0]] for names in bundles}
        remainders = {names: spent[names] / prices[names] - groups[names] for names in bundles}
        ranked = sorted(bundles, key=lambda names: (-remainders[names], names))
        while fitting := [b for b in ranked if prices[b] <= left and groups[b] < most[b]]:
            for names in fitting:
                if prices[names] <= left:
                    groups[names] += 1
                    left -= prices[names]
    kept = {n: number * units[n] for names, number in groups.items() for n in names}
    return {name: kept[name] for name in sizes}


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
    costs: Mapping[str, int],
) -> float:
    """Return the factor by which the numbers, within floors and sizes, add up to the budget."""

    def kept(factor: float) -> float:
        scaled = {
            name: min(max(factor * value, floors[name]), sizes[name])
            for name, value in ideal.items()
        }
        return float(cost_of(scaled, costs))

    if abs(kept(1.0) - total) <= _ROUNDING * total:
        return 1.0
    low, high = 0.0, max(sizes[name] / value for name, value in ideal.items())
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kept(middle) < total else (low, middle)
    return high
