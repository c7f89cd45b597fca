"""The summary of the judged files of a study: means over seeds, and a table."""

from __future__ import annotations

from collections.abc import Sequence

from .study_judge import KEY, MEASURES
from .study_results import grouped, has_allocations, markdown_table
from .types import Report

_NOTE = """
Files in LiteRT, on the images of --judge_samples: era is the accuracy under all attacks of
--judge_attacks and --judge_search, for the file and for the Keras model. Time is for one image, on
one thread of the machine that ran the study. Only a certificate of the file (VRA-s) is a proof.

"""
_SHARES = ("agreement", "benign_accuracy", "era", "keras_era", "vra_s")
_SIZES = ("bytes", "gzip_bytes", "peak_bytes")


def summarise(rows: Sequence[Report]) -> list[Report]:
    """Return mean and deviation of each measure per density, method, allocation and format.

    Args:
        rows: see :func:`study_results.row_of`.

    Returns:
        For each: ``method``, ``allocation``, ``density``, ``format``, ``seeds`` (the networks with
        such a file) and the measures of :data:`study_judge.MEASURES` that all of them have.
    """
    import numpy as np

    entries: list[Report] = []
    for (density, method, allocation), group in grouped(rows).items():
        for name in dict.fromkeys(name for row in group for name in row.get(KEY, {})):
            files = [row[KEY][name] for row in group if name in row.get(KEY, {})]
            entry: Report = {"method": method, "allocation": allocation or None}
            entry |= {"density": density, "format": name, "seeds": len(files)}
            for key in MEASURES:
                column = [file[key] for file in files if key in file]
                if len(column) == len(files):
                    entry[key] = {"mean": float(np.mean(column)), "std": float(np.std(column))}
            entries.append(entry)
    return entries


def markdown(entries: Sequence[Report]) -> str:
    """Return the summary as a Markdown table, shares in percent; no text without files.

    Args:
        entries: what :func:`summarise` returned.
    """
    if not entries:
        return ""
    measures = [key for key in MEASURES if any(key in entry for entry in entries)]
    names = ["method", *(["allocation"] if has_allocations(entries) else []), "format"]
    table = [
        [
            f"{100 * entry['density']:g}%",
            *(entry[name] or "" for name in names),
            *(_cell(entry, key) for key in measures),
            str(entry["seeds"]),
        ]
        for entry in entries
    ]
    heads = ["density", *names, *(MEASURES[key] for key in measures), "seeds"]
    return _NOTE + markdown_table(heads, table)


def _cell(entry: Report, key: str) -> str:
    """Return the text of a measure in the table."""
    if key not in entry:
        return "unknown"
    mean, deviation = entry[key]["mean"], entry[key]["std"]
    if key in _SIZES:
        return f"{mean:,.0f}"
    if key in _SHARES:
        spread = f" ± {100 * deviation:.1f}" if entry["seeds"] > 1 else ""
        return f"{100 * mean:.1f}{spread}"
    return f"{mean:.3g}"
