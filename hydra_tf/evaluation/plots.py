"""Plots of measured numbers; each function returns the path that it wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hydra_tf.core.files import replacing

# Networks that are not pruned, with the styles of their lines.
_DENSE = {"dense": "--", "dense_long": ":"}


def _figure(**options: Any) -> Any:
    """Return a matplotlib figure and axes that need no display."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **options)
    return figure, figure.subplots()


def _legend_above(axes: Any, columns: int) -> None:
    """Add a legend above the axes, where it covers no data, if anything has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        options = {"ncols": columns, "fontsize": 8, "frameon": False}
        axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), **options)


def _save(figure: Any, path: str | os.PathLike[str]) -> str:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return os.fspath(path)


def training_curves(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> str:
    """Plot benign and robust accuracy over the epochs, with shaded phases.

    Args:
        rows: one mapping per epoch with ``epoch``, ``phase`` and the metrics, as in
            `metrics.jsonl`.
        path: image file to write; the suffix sets its format.

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
        seen = [row for row in rows if key in row]
        if seen:
            # A single epoch would have no visible line.
            marker = {"marker": "."} if len(seen) < 30 else {}
            x, values = [row["epoch"] for row in seen], [row[key] for row in seen]
            axes.plot(x, values, style, label=label, **marker)
    phases = [row["phase"] for row in rows]
    for i, name in enumerate(dict.fromkeys(phases)):
        first = epochs[phases.index(name)]
        last = first + phases.count(name)
        axes.axvspan(first - 0.5, last - 0.5, color=f"{0.97 - 0.05 * i}", zorder=0)
        axes.text(first - 0.4, 0.99, name, va="top", fontsize=8, color="0.35")
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    if rows:
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_above(axes, 4)
    return _save(figure, path)


def layer_densities(layers: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> str:
    """Plot how many weights each layer has and keeps, on a logarithmic scale.

    Args:
        layers: the ``layers`` of :func:`hydra_tf.sparsity.report`.
        path: image file to write.

    Returns:
        The path.
    """
    figure, axes = _figure(figsize=(7, 0.4 * len(layers) + 1.2))
    names = [row["name"] for row in layers]
    positions = np.arange(len(names))
    axes.barh(positions, [row["weights"] for row in layers], color="0.85", label="weights")
    axes.barh(positions, [row["kept"] for row in layers], color="C2", label="kept")
    for position, row in zip(positions, layers, strict=True):
        share = f" {row['kept']:,} ({row['density']:.2%})"
        axes.text(row["kept"], position, share, va="center", fontsize=8)
    # From 1/2, so that a layer of one weight has a bar; with space for the text on the right.
    right = 8 * max((row["weights"] for row in layers), default=1)
    axes.set(xscale="log", xlim=(0.5, right), xlabel="weights", yticks=positions, yticklabels=names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    _legend_above(axes, 2)
    return _save(figure, path)


def accuracy_against_density(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], metric: str = "era"
) -> str:
    """Plot mean and standard deviation of a measure against density, one line per method.

    Args:
        rows: mappings with ``method``, ``density``, ``seed`` and the metric; the methods
            ``"dense"`` and ``"dense_long"``, a dense network of more epochs, are drawn as
            horizontal lines. Rows without the metric are left out.
        path: image file to write.
        metric: key of the measure, in [0, 1].

    Returns:
        The path.
    """
    rows = [row for row in rows if metric in row]
    figure, axes = _figure(figsize=(6, 4))
    ticks = sorted({row["density"] for row in rows if row["method"] not in _DENSE})
    for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        of_method = [row for row in rows if row["method"] == method]
        densities = sorted({row["density"] for row in of_method})
        groups = [[row[metric] for row in of_method if row["density"] == d] for d in densities]
        means = np.array([np.mean(group) for group in groups])
        deviations = np.array([np.std(group) for group in groups])
        if method in _DENSE:
            axes.axhline(means[0], color="0.5", ls=_DENSE[method], label=method.replace("_", " "))
            axes.axhspan(means[0] - deviations[0], means[0] + deviations[0], color="0.9", zorder=0)
            continue
        axes.errorbar(
            densities, means, deviations, marker="o", capsize=3, label=method, color=f"C{i}"
        )
    label = {"era": "robust accuracy (era)"}.get(metric, metric.replace("_", " "))
    axes.set(xscale="log", xlabel="weights kept (%)", ylabel=label, ylim=(0, 1))
    axes.set_xticks(ticks, [f"{density:.4g}" for density in np.multiply(ticks, 100)])
    axes.set_xticks([], minor=True)
    _legend_above(axes, 5)
    return _save(figure, path)


def certified_accuracy(
    certificates: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | os.PathLike[str],
    radius: float | None = None,
) -> str:
    """Plot certified accuracy against the L2 radius, one line per network.

    Args:
        certificates: rows of :func:`hydra_tf.evaluation.certify_dataset` by label; labels
            without rows are left out.
        path: image file to write.
        radius: radius to mark with a line, such as 110/255; None for no line.

    Returns:
        The path.
    """
    figure, axes = _figure(figsize=(6, 4))
    for i, (label, rows) in enumerate(certificates.items()):
        if not rows:
            continue
        radii = [row["radius"] for row in rows if row["correct"]]
        _survivors(axes, radii, len(rows), label=label, color=f"C{i}")
    if radius is not None:
        axes.axvline(radius, color="0.6", ls=":", label=f"radius {radius:.3f}")
    axes.set(xlabel="L2 radius", ylabel="certified accuracy", ylim=(0, 1))
    axes.set_xlim(left=0)
    _legend_above(axes, 3)
    return _save(figure, path)


def _survivors(axes: Any, values: Sequence[float], count: int, **options: Any) -> None:
    """Draw the share, of `count` images, of those whose value reaches x; infinite values last."""
    finite = np.sort([value for value in values if np.isfinite(value)])
    # The share falls just above each value.
    shares = (len(values) - np.arange(len(finite) + 1)) / count
    axes.step(np.concatenate([[0.0], finite]), shares, where="post", **options)


def security_curve(
    distances: Mapping[str, Sequence[float] | np.ndarray[Any, Any]],
    path: str | os.PathLike[str],
    norm: str,
    epsilon: float | None = None,
) -> str:
    """Plot robust accuracy against epsilon, one line per network.

    Args:
        distances: by label, distances of :func:`hydra_tf.evaluation.minimal_distances`; labels
            without distances are left out.
        path: image file to write.
        norm: norm of the distances.
        epsilon: radius to mark with a line; None for no line.

    Returns:
        The path.
    """
    figure, axes = _figure(figsize=(6, 4))
    for i, (label, values) in enumerate(distances.items()):
        if len(values):
            broken = [value for value in values if value > 0]
            _survivors(axes, broken, len(values), label=label, color=f"C{i}")
    if epsilon is not None:
        axes.axvline(epsilon, color="0.6", ls=":", label=f"epsilon {epsilon:.3f}")
    axes.set(xlabel=f"epsilon ({norm.capitalize()})", ylabel="robust accuracy", ylim=(0, 1))
    axes.set_xlim(left=0)
    _legend_above(axes, 3)
    return _save(figure, path)


def file_judgement(judgement: Mapping[str, Any], path: str | os.PathLike[str]) -> str:
    """Plot what a TFLite file keeps: accuracies, size beside its bound, latency beside dense.

    Args:
        judgement: :meth:`hydra_tf.export.Judgement.to_dict`, of a file whose entropy bound and
            dense file are known, or not.
        path: image file to write.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", figsize=(11, 3.6))
    accuracies, sizes, times = figure.subplots(1, 3, width_ratios=[2, 1.4, 1])
    _accuracy_bars(accuracies, judgement)
    bars = {"file": judgement["bytes"], "gzip": judgement["gzip_bytes"]}
    if judgement.get("entropy_bytes") is not None:
        bars["bound"] = judgement["entropy_bytes"] + judgement["bare_bytes"]
    if judgement.get("dense_bytes") is not None:
        bars["dense"] = judgement["dense_bytes"]
    drawn = sizes.bar(list(bars), [size / 1000 for size in bars.values()], color="C2")
    sizes.bar_label(drawn, fmt="%.4g", fontsize=8)
    sizes.set(ylabel="size (kB)")
    latencies = {"file": judgement["latency"]}
    if judgement.get("dense_latency") is not None:
        latencies["dense"] = judgement["dense_latency"]
    medians = np.array([entry["milliseconds"] for entry in latencies.values()])
    low, high = np.array([entry["quartiles"] for entry in latencies.values()]).T
    drawn = times.bar(
        list(latencies), medians, yerr=[medians - low, high - medians], capsize=4, color="C4"
    )
    times.bar_label(drawn, fmt="%.3g", fontsize=8, label_type="center")
    times.set(ylabel="latency (ms), median and quartiles")
    return _save(figure, path)


def _accuracy_bars(axes: Any, judgement: Mapping[str, Any]) -> None:
    """Draw the accuracies of a file beside those of the Keras model."""
    entries = [("benign", judgement["benign_accuracy"], judgement["keras_benign_accuracy"])]
    for attack in judgement["attacks"]:
        name = f"{attack['name']}\n(from {attack['images_from']})"
        entries.append((name, attack["robust_accuracy"], attack["keras_robust_accuracy"]))
    entries.append(("era", judgement["era"], judgement["keras_era"]))
    certified = judgement.get("certified")
    labels = [name for name, *_ in entries] + (["certified\n(VRA-s)"] if certified else [])
    files = [share for _, share, _ in entries] + ([certified["vra_s"]] if certified else [])
    positions = np.arange(len(labels))
    axes.bar(positions - 0.2, files, 0.4, color="C1", label="file")
    axes.bar(
        positions[: len(entries)] + 0.2, [e[2] for e in entries], 0.4, color="0.7", label="Keras"
    )
    axes.set(ylabel="accuracy", ylim=(0, 1), xticks=positions)
    axes.set_xticklabels(labels, fontsize=8)
    _legend_above(axes, 2)
