"""Plots beside the numbers; each returns the path it wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def _figure(**how: Any) -> Any:
    """A matplotlib figure and axes that need no screen."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **how)
    return figure, figure.subplots()


def _save(figure: Any, path: str | os.PathLike[str]) -> str:
    target = os.fspath(path)
    stem, suffix = os.path.splitext(target)
    figure.savefig(f"{stem}.tmp{suffix}", dpi=120)
    os.replace(f"{stem}.tmp{suffix}", target)
    return target


def training_curves(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> str:
    """Draw benign and robust accuracy over the epochs, the phases shaded.

    Args:
        rows: one mapping per epoch with ``epoch``, ``phase`` and the metrics, as
            `metrics.jsonl` holds them.
        path: image file to write; the suffix says which kind.

    Returns:
        The path.
    """
    figure, axes = _figure(figsize=(7, 4))
    epochs = [row["epoch"] for row in rows]
    for key, label, style in (
        ("accuracy", "benign, training", "C0:"),
        ("robust_accuracy", "robust, training", "C1:"),
        ("val_accuracy", "benign, validation", "C0-"),
        ("val_robust_accuracy", "robust, validation", "C1-"),
    ):
        if rows and key in rows[0]:
            axes.plot(epochs, [row.get(key, np.nan) for row in rows], style, label=label)
    phases = [row["phase"] for row in rows]
    for i, name in enumerate(dict.fromkeys(phases)):
        first = epochs[phases.index(name)]
        last = first + phases.count(name)
        axes.axvspan(first - 0.5, last - 0.5, color=f"{0.97 - 0.05 * i}", zorder=0)
        axes.text(first - 0.3, 0.01, name, va="bottom", fontsize=9)
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    axes.legend(loc="lower right", fontsize=8)
    return _save(figure, path)


def layer_densities(layers: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> str:
    """Draw how many weights each layer has and keeps, on a logarithmic scale.

    Args:
        layers: the ``layers`` of :func:`hydra_tf.sparsity.report`.
        path: image file to write.

    Returns:
        The path.
    """
    figure, axes = _figure(figsize=(7, 0.4 * len(layers) + 1.2))
    names = [row["name"] for row in layers]
    places = np.arange(len(names))
    axes.barh(places, [row["weights"] for row in layers], color="0.85", label="weights")
    axes.barh(places, [row["kept"] for row in layers], color="C2", label="kept")
    for place, row in zip(places, layers, strict=True):
        axes.text(row["kept"], place, f" {row['density']:.2%}", va="center", fontsize=8)
    axes.set(xscale="log", yticks=places, yticklabels=names)
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    return _save(figure, path)


def accuracy_against_density(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], metric: str = "era"
) -> str:
    """Draw mean and spread of a measure against density, one line per method.

    Args:
        rows: mappings with ``method``, ``density``, ``seed`` and the metric; the method
            ``"dense"`` is drawn as a level line.
        path: image file to write.
        metric: key of the measure, in [0, 1].

    Returns:
        The path.
    """
    figure, axes = _figure(figsize=(6, 4))
    for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        mine = [row for row in rows if row["method"] == method]
        densities = sorted({row["density"] for row in mine})
        groups = [[row[metric] for row in mine if row["density"] == d] for d in densities]
        means = np.array([np.mean(group) for group in groups])
        spread = np.array([np.std(group) for group in groups])
        if method == "dense":
            axes.axhline(means[0], color="0.5", ls="--", label="dense")
            continue
        axes.errorbar(densities, means, spread, marker="o", capsize=3, label=method, color=f"C{i}")
    axes.set(xscale="log", xlabel="density (share of weights kept)", ylabel=metric, ylim=(0, 1))
    axes.legend()
    return _save(figure, path)
