"""Differences between methods, or between allocations, in the networks of the same seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from .study_cells import DENSE, DENSE_LONG
from .study_results import MEASURES, grouped, markdown_table, measured, measures_of
from .types import Report

_EQUAL = 1e-9  # differences of accuracies that are equal but for rounding
_NOTE = """
Differences in points between networks of the same seeds and density: mean, 95% confidence interval
and p-value of a paired t-test. A difference whose interval contains 0 is not significant. If two
methods do not differ, p is below 0.05 in one comparison of twenty; this table has {count}.

"""


def differences(rows: Sequence[Report]) -> list[Report]:
    """Compare methods with the same allocation, and allocations of the same method.

    Args:
        rows: see :func:`study_results.row_of`.

    Returns:
        For each pair with at least two seeds in common: ``density``, ``measure``, ``first`` and
        ``second`` (method and allocation), ``difference`` (mean of first minus second),
        ``interval`` (95% confidence, by Student's t), ``p`` (paired t-test) and ``seeds``. Interval
        and p are None if all differences are equal.
    """
    pruned = grouped([row for row in rows if row["method"] not in (DENSE, DENSE_LONG)])
    return [
        {"density": density, "measure": measure, "first": first, "second": second, **result}
        for (density, first, second) in _pairs(list(pruned))
        for measure in measured(rows)
        if (
            result := _compare(
                _by_seed(pruned[(density, *first)], measure),
                _by_seed(pruned[(density, *second)], measure),
            )
        )
    ]


def _pairs(
    keys: Sequence[tuple[float, str, str]],
) -> Iterator[tuple[float, tuple[str, str], tuple[str, str]]]:
    """Yield the pairs of one density that differ in the method or in the allocation alone."""
    for first, second in itertools.combinations(keys, 2):
        same = [a == b for a, b in zip(first, second, strict=True)]
        if same[0] and sum(same) == 2:
            yield first[0], first[1:], second[1:]


def _by_seed(group: Sequence[Report], measure: str) -> dict[int, float]:
    """Return a measure of networks by their seed."""
    return {row["seed"]: measures_of(row)[measure] for row in group if measure in measures_of(row)}


def _compare(first: dict[int, float], second: dict[int, float]) -> Report | None:
    """Return the paired comparison, or None for fewer than two common seeds."""
    from scipy import stats

    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    gaps = [first[seed] - second[seed] for seed in seeds]
    mean = sum(gaps) / len(gaps)
    result: Report = {"difference": mean, "interval": None, "p": None, "seeds": len(seeds)}
    if max(gaps) - min(gaps) > _EQUAL:
        test = stats.ttest_1samp(gaps, 0.0)
        interval = test.confidence_interval(0.95)
        result |= {"interval": [float(interval.low), float(interval.high)], "p": float(test.pvalue)}
    return result


def _interval(ends: Sequence[float] | None) -> str:
    """Return an interval in points."""
    if ends is None:
        return "unknown: all differences are equal"
    return "{:+.1f} to {:+.1f}".format(*(100 * end for end in ends))


def markdown(entries: Sequence[Report]) -> str:
    """Return the differences as a note and a Markdown table, no text without entries.

    Args:
        entries: see :func:`differences`.
    """
    if not entries:
        return ""
    table = [
        [
            f"{100 * entry['density']:g}%",
            str(MEASURES.get(entry["measure"], entry["measure"])),
            " minus ".join(", ".join(filter(None, entry[key])) for key in ("first", "second")),
            f"{100 * entry['difference']:+.1f}",
            _interval(entry["interval"]),
            "" if entry["p"] is None else f"{entry['p']:.2g}",
            str(entry["seeds"]),
        ]
        for entry in entries
    ]
    heads = ["density", "measure", "first minus second", "difference", "95% interval", "p", "seeds"]
    return _NOTE.format(count=len(entries)) + markdown_table(heads, table)
