"""D95: the smallest density at which a network is still almost as robust as a dense one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .study_cells import DENSE, DENSE_LONG
from .study_results import (
    MEASURES,
    grouped,
    has_allocations,
    markdown_table,
    measured,
    measures_of,
)
from .types import Report

# Share of the accuracy of the dense network that a pruned one keeps.
_SHARE = 0.95

# A dense network is at chance up to this multiple of 1 / classes: 15% for 10 classes.
_CHANCE = 1.5

_NOTE = """
D95: the smallest density of the study at which the mean accuracy is at least 95% of that of
{dense} with the same seeds. In brackets: interpolated between this density and the next smaller
one, linearly in the logarithm of the density. "≤" marks the smallest density of the study, "none"
that no density has the accuracy, "dense at chance" that there is no D95, because the mean accuracy
of the dense networks on unperturbed images is at most 1.5 / classes.
"""


def smallest_densities(rows: Sequence[Report]) -> list[Report]:
    """Return D95 of each method, allocation and measure of robustness.

    The dense network is :data:`DENSE_LONG` if a row has the measure for it, else :data:`DENSE`.
    Densities at which the measure is not known for every seed, or for the dense network of every
    seed, are left out.

    Args:
        rows: see :func:`study_results.row_of`.

    Returns:
        For each: ``method``, ``allocation``, ``measure``, ``dense`` (the dense network),
        ``at_chance`` (whether the dense network has learned too little for a D95), ``density``
        (None if at chance, or if no density has the accuracy), ``interpolated`` (None without a
        smaller density) and ``shares``, the shares of the dense network's accuracy by density.
    """
    pruned = grouped([row for row in rows if row["method"] not in (DENSE, DENSE_LONG)])
    entries: list[Report] = []
    for measure in (key for key in measured(rows) if key != "benign_accuracy"):
        dense = _dense_of(rows, measure)
        accuracies = {
            row["seed"]: measures_of(row)[measure]
            for row in rows
            if row["method"] == dense and measure in measures_of(row)
        }
        at_chance = _at_chance([row for row in rows if row["method"] == dense])
        for method, allocation in sorted({key[1:] for key in pruned}):
            known = {
                key[0]: _share_of(group, measure, accuracies)
                for key, group in pruned.items()
                if key[1:] == (method, allocation)
            }
            shares = {d: share for d, share in known.items() if share is not None}
            if shares:
                density, interpolated = (None, None) if at_chance else smallest_density(shares)
                entry: Report = {"method": method, "allocation": allocation, "measure": measure}
                entry |= {
                    "dense": dense,
                    "at_chance": at_chance,
                    "density": density,
                    "interpolated": interpolated,
                }
                entries.append({**entry, "shares": shares})
    return entries


def smallest_density(shares: dict[float, float]) -> tuple[float | None, float | None]:
    """Return the smallest density with a share of at least 0.95, and an interpolated one.

    Args:
        shares: share of the dense network's accuracy by density.

    Returns:
        The density, and the one between it and the next smaller density at which a line through
        both shares, over the logarithm of the density, is 0.95; None where there is none.

    Example:
        >>> smallest_density({0.1: 1.0, 0.001: 0.9})
        (0.1, 0.01)
        >>> smallest_density({0.1: 0.9})
        (None, None)
    """
    density = min((d for d, share in shares.items() if share >= _SHARE), default=None)
    below = max((d for d in shares if density is not None and d < density), default=None)
    if density is None or below is None:
        return density, None
    position = (_SHARE - shares[below]) / (shares[density] - shares[below])
    logarithm = math.log(below) + position * (math.log(density) - math.log(below))
    return density, round(math.exp(logarithm), 9)


def markdown(entries: Sequence[Report]) -> str:
    """Return D95 as a note and a Markdown table, no text without entries.

    Args:
        entries: see :func:`smallest_densities`.
    """
    if not entries:
        return ""
    measures = list(dict.fromkeys(entry["measure"] for entry in entries))
    names = ["method", *(["allocation"] if has_allocations(entries) else [])]
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for entry in entries:
        row = cells.setdefault(tuple(entry[name] for name in names), {})
        row[entry["measure"]] = _cell(entry)
    rows = [[*key, *(row.get(m, "unknown") for m in measures)] for key, row in cells.items()]
    heads = [*names, *(MEASURES.get(measure, measure) for measure in measures)]
    dense = " or ".join(dict.fromkeys(entry["dense"] for entry in entries))
    return f"{_NOTE.format(dense=dense)}\n{markdown_table(heads, rows)}"


def _dense_of(rows: Sequence[Report], measure: str) -> str:
    """Return which dense network accuracies are compared with."""
    long = (row for row in rows if row["method"] == DENSE_LONG)
    return DENSE_LONG if any(measure in measures_of(row) for row in long) else DENSE


def _at_chance(dense: Sequence[Report]) -> bool:
    """Return whether dense networks are no better than guessing; False if that is not known."""
    known = [row for row in dense if "benign_accuracy" in row and "num_classes" in row]
    shares = [row["benign_accuracy"] * row["num_classes"] for row in known]
    return bool(shares) and sum(shares) / len(shares) <= _CHANCE


def _share_of(group: Sequence[Report], measure: str, dense: dict[int, float]) -> float | None:
    """Return the mean accuracy of networks as a share of that of dense ones, None if unknown."""
    known = all(measure in measures_of(row) and row["seed"] in dense for row in group)
    whole = sum(dense[row["seed"]] for row in group) if known else 0.0
    return sum(measures_of(row)[measure] for row in group) / whole if whole else None


def _cell(entry: Report) -> str:
    """Return the text of an entry in the table."""
    if entry["at_chance"]:
        return "dense at chance"
    if entry["density"] is None:
        return "none"
    if entry["interpolated"] is None:
        return f"≤ {100 * entry['density']:g}%"
    return f"{100 * entry['density']:g}% ({100 * entry['interpolated']:.3g}%)"
