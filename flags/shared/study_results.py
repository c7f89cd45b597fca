"""The results of a study: one row for each network, means over seeds, and a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence

from hydra_tf.core.files import replacing

from . import further_attacks, run_files, study_judge
from .study_cells import Cell, Study
from .types import Report

MEASURES = {
    "benign_accuracy": "benign",
    "era": "robust (era)",
    "vra_s": "certified (VRA-s)",
    "vra_m": "verified (VRA-m)",
    "vra_t": "verified (VRA-t)",
}

# Of the images, those for which the attack that found the fewest gradients found none.
_SHARE = "zero_gradient_share"
# What a row has beside measures.
_COLUMNS = (
    "method", "allocation", "granularity", "density", "measured_density", "seed", "epochs",
    "seconds",
)  # fmt: skip


def row_of(study: Study, cell: Cell) -> Report:
    """Return the row of a finished network.

    `allocation` and `granularity` are None for a dense network. `epochs` counts the epochs of its
    own run, without those of the dense network from which it started; `seconds` is the time that
    they took, None if the run was interrupted. `attacks` has the robust accuracy under each
    further attack, and `files`, if there are any, the measures of each judged file by its format.
    """
    out = study.directory(cell)
    report = run_files.read_report(out)
    row: Report = {
        "method": cell.method,
        "allocation": None if cell.is_dense else cell.allocation,
        "granularity": None if cell.is_dense else study.settings.get("granularity", "element"),
        "density": cell.density,
        "measured_density": report.get("density"),
        "seed": cell.seed,
        "epochs": len(run_files.read_metrics(out)),
        "seconds": report.get("seconds"),
    }
    entries = [*report.get("attacks", []), *report.get("further_attacks", [])]
    shares = [entry[_SHARE] for entry in entries if _SHARE in entry]
    row |= {_SHARE: max(shares)} if shares else {}  # none in reports of earlier versions
    row |= {"num_classes": report["num_classes"]} if "num_classes" in report else {}
    measures = {key: report[key] for key in MEASURES if key in report}
    files = study_judge.figures(report)
    row |= {study_judge.KEY: files} if files else {}
    return {**row, **measures, "attacks": further_attacks.accuracies(report)}


def measures_of(row: Report) -> dict[str, float]:
    """Return the accuracies of a row by their keys: measures, then further attacks.

    Example:
        >>> measures_of({"method": "lwm", "era": 0.5, "attacks": {"autoattack (9 images)": 0.25}})
        {'era': 0.5, 'autoattack (9 images)': 0.25}
    """
    return {**{key: row[key] for key in MEASURES if key in row}, **row.get("attacks", {})}


def measured(rows: Sequence[Report]) -> list[str]:
    """Return the keys of the accuracies that any row has, in the order of the columns."""
    seen = dict.fromkeys(key for row in rows for key in measures_of(row))
    return _in_order(seen)


def _in_order(keys: Iterable[str]) -> list[str]:
    """Return measures in the order of :data:`MEASURES`, then further attacks."""
    known = list(keys)
    first = [key for key in MEASURES if key in known]
    return [*first, *(key for key in known if key not in MEASURES)]


def write_csv(rows: Sequence[Report], path: str) -> None:
    """Write a CSV file with a line for each network.

    Args:
        rows: see :func:`row_of`.
        path: the file, which is replaced when it is complete.
    """
    keys = [*measured(rows), *study_judge.columns(rows)]
    with (
        replacing(path, ".csv") as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, [*_COLUMNS, *keys], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, **measures_of(row), **study_judge.flat(row)} for row in rows)


def grouped(rows: Sequence[Report]) -> dict[tuple[float, str, str], list[Report]]:
    """Return the rows of each density, method and allocation, sorted by falling density."""
    groups: dict[tuple[float, str, str], list[Report]] = {}
    for row in rows:
        key = (-row["density"], row["method"], row.get("allocation") or "")
        groups.setdefault(key, []).append(row)
    return {(-key[0], *key[1:]): groups[key] for key in sorted(groups)}


def summarise(rows: Sequence[Report]) -> list[Report]:
    """Return mean and population standard deviation over seeds per density, method, allocation."""
    import numpy as np

    table = []
    for (density, method, allocation), group in grouped(rows).items():
        entry: Report = {"method": method, "allocation": allocation or None, "density": density}
        entry["seeds"] = len(group)
        for key in (*measured(rows), _SHARE):
            values = [{**row, **measures_of(row)} for row in group]
            if all(key in value for value in values):
                column = [value[key] for value in values]
                entry[key] = {"mean": float(np.mean(column)), "std": float(np.std(column))}
        table.append(entry)
    return table


def markdown(table: Sequence[Report]) -> str:
    """Return the summary as a Markdown table, in percent."""

    def cell(entry: Report, key: str) -> str:
        if key not in entry:
            return "unknown"
        deviation = f" ± {100 * entry[key]['std']:.1f}" if entry["seeds"] > 1 else ""
        return f"{100 * entry[key]['mean']:.1f}{deviation}"

    from hydra_tf.attacks.gradients import MAX_SHARE

    found = dict.fromkeys(key for entry in table for key in entry if isinstance(entry[key], dict))
    found.pop(_SHARE, None)
    measures = {key: MEASURES.get(key, key) for key in _in_order(found)}
    if any(entry.get(_SHARE, {"mean": 0.0})["mean"] > MAX_SHARE for entry in table):
        measures[_SHARE] = "no gradient"
    names = ["method", *(["allocation"] if has_allocations(table) else [])]
    rows = [
        [
            f"{100 * entry['density']:g}%",
            *(entry[name] or "" for name in names),
            *(cell(entry, key) for key in measures),
            str(entry["seeds"]),
        ]
        for entry in table
    ]
    return markdown_table(["density", *names, *measures.values(), "seeds"], rows)


def has_allocations(entries: Sequence[Report]) -> bool:
    """Return whether rows or entries of the summary are of more than one allocation."""
    return len({entry.get("allocation") for entry in entries} - {None}) > 1


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    Example:
        >>> print(markdown_table(["a", "b"], [["1", "2"]]), end="")
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def write_plots(rows: Sequence[Report], out: str) -> None:
    """Plot each measure of robustness that was measured against density.

    Args:
        rows: see :func:`row_of`.
        out: folder to write the plots to.
    """
    from hydra_tf.evaluation import plots

    if has_allocations(rows):
        rows = [{**row, "method": _label(row["method"], row["allocation"])} for row in rows]
    for measure in list(MEASURES)[1:]:
        if any(measure in row for row in rows):
            target = os.path.join(out, f"{measure}.png")
            plots.accuracy_against_density(rows, target, measure)


def _label(method: str, allocation: str | None) -> str:
    """Return the name of a line in a plot."""
    return method if allocation is None else f"{method}, {allocation}"
