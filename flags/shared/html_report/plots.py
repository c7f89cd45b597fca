"""The interactive plots of the page, as Plotly figures; None where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..study_cells import DENSE, DENSE_LONG
from ..study_results import grouped, has_allocations, measures_of
from ..types import Report

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# The colours of Okabe and Ito, which people with colour blindness can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = {DENSE: "dash", DENSE_LONG: "dot"}
_GREY = "#777777"


def accuracy_against_density(rows: Sequence[Report], measure: str, title: str) -> Figure | None:
    """Plot the mean of a measure over seeds against density, with one standard deviation.

    Args:
        rows: see :func:`study_results.row_of`.
        measure: key of the measure.
        title: label of the axis.
    """
    rows = [row for row in rows if measure in measures_of(row)]
    if not rows:
        return None
    lines: dict[str, dict[float, list[float]]] = {}
    for (density, method, allocation), group in grouped(rows).items():
        name = _name(rows, method, allocation)
        lines.setdefault(name, {})[density] = [100 * measures_of(row)[measure] for row in group]
    pruned = sorted({row["density"] for row in rows if row["method"] not in _DASHES})
    figure = _figure(f"{title} (%)", "weights kept (%)")
    names = [name for name in lines if name not in _DASHES]
    for name, groups in lines.items():
        if name in _DASHES:
            _add_dense(figure, name, groups[1.0], pruned)
        else:
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            _add_band(figure, name, groups, colour)
    if pruned:
        ticks = [100 * density for density in pruned]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(range=[0, 100])
    return figure


def _add_dense(figure: Figure, name: str, values: list[float], densities: list[float]) -> None:
    """Add a horizontal line for a network that is not pruned."""
    ends = [100.0, 100.0]
    if densities:  # a line needs two ends
        only = len(densities) == 1
        ends = [100 * densities[0] / (2 if only else 1), 100 * densities[-1] * (2 if only else 1)]
    text = f"{name.replace('_', ' ')}: %{{y:.1f}} ± {np.std(values):.1f} ({len(values)} seeds)"
    figure.add_scatter(
        x=ends,
        y=[np.mean(values)] * 2,
        mode="lines" if len(set(ends)) > 1 else "markers",
        name=name.replace("_", " "),
        line={"dash": _DASHES[name], "color": _GREY},
        hovertemplate=f"{text}<extra></extra>",
    )


def _add_band(figure: Figure, name: str, groups: dict[float, list[float]], colour: str) -> None:
    """Add the line of the means, and the band of one standard deviation around it."""
    densities = sorted(groups)
    x = [100 * density for density in densities]
    means = np.array([np.mean(groups[d]) for d in densities])
    spread = np.array([np.std(groups[d]) for d in densities])
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=[*(means + spread), *(means - spread)[::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=0.2,
        line={"width": 0},
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )
    details = [[s, len(groups[d])] for s, d in zip(spread, densities, strict=True)]
    figure.add_scatter(
        x=x,
        y=means,
        customdata=details,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        line={"color": colour},
        hovertemplate=f"{name} at %{{x:g}}%: %{{y:.1f}} ± %{{customdata[0]:.1f}} "
        "(%{customdata[1]} seeds)<extra></extra>",
    )


def security_curves(figures: Mapping[str, Report]) -> Figure | None:
    """Plot robust accuracy against epsilon, one line for each network.

    Args:
        figures: content of figures.json by the name of the network.
    """
    curves = {name: entry["curve"] for name, entry in figures.items() if "curve" in entry}
    if not curves:
        return None
    first = next(iter(curves.values()))
    counts = sorted({curve["samples"] for curve in curves.values()})
    unit = f"epsilon ({first['norm']}), {' or '.join(map(str, counts))} images in [0, 1]"
    figure = _figure(f"accuracy under {first['attack']} (%)", unit)
    for colour, (name, curve) in zip(_cycle(), curves.items(), strict=False):
        epsilons, accuracies = zip(*curve["points"], strict=True)
        _add_line(figure, name, epsilons, 100 * np.array(accuracies), colour, "epsilon")
    figure.add_vline(first["epsilon"], line_dash="dot", annotation_text="epsilon of training")
    figure.update_yaxes(range=[0, 100])
    return figure


def certified_accuracy(certificates: Mapping[str, Sequence[Report]]) -> Figure | None:
    """Plot certified accuracy against the L2 radius, one line for each network.

    Args:
        certificates: rows of certify.jsonl by the name of the network.
    """
    figure = _figure("certified accuracy (%)", "L2 radius (images in [0, 1])")
    for colour, (name, rows) in zip(_cycle(), certificates.items(), strict=False):
        radii = np.sort([row["radius"] for row in rows if row["correct"]])
        shares = 100 * np.arange(len(radii), -1, -1) / len(rows)
        line = {"shape": "hv", "color": colour}
        where = np.concatenate([[0.0], radii])
        _add_line(figure, name, where, shares, colour, "radius", mode="lines", line=line)
    figure.update_yaxes(range=[0, 100])
    return figure if certificates else None


def layer_densities(layers: Mapping[str, Sequence[Report]]) -> Figure | None:
    """Plot the density of each layer, one group of bars for each network.

    Args:
        layers: `layers` of report.json by the name of the network.
    """
    if not layers:
        return None
    figure = _figure("weights kept (%), logarithmic", None)
    for colour, (name, rows) in zip(_cycle(), layers.items(), strict=False):
        counts = [[row["kept"], row["weights"]] for row in rows]
        figure.add_bar(
            x=[row["name"] for row in rows],
            y=[100 * row["density"] for row in rows],
            customdata=counts,
            name=name,
            marker_color=colour,
            hovertemplate=f"{name}, %{{x}}: %{{customdata[0]:,}} of %{{customdata[1]:,}} "
            "(%{y:.3g}%)<extra></extra>",
        )
    smallest = min(row["density"] for rows in layers.values() for row in rows)
    # From half of the smallest bar, or equal layers look different.
    figure.update_yaxes(type="log", range=[math.log10(50 * max(smallest, 1e-6)), 2])
    return figure


def weight_histograms(figures: Mapping[str, Report]) -> Figure | None:
    """Plot histograms of kept and pruned weights of the dense network, networks side by side.

    Args:
        figures: content of figures.json by the name of the network; at most four are shown, one
            of each method first.
    """
    from plotly.subplots import make_subplots

    found = {name: entry["weights"] for name, entry in figures.items() if "weights" in entry}
    # Names begin with the method.
    first = list({name.split("-")[0]: name for name in reversed(found)}.values())[::-1]
    names = [*first, *(name for name in found if name not in first)][:4]
    shown = {name: found[name] for name in names}
    if not shown:
        return None
    titles = [f"{name}<br>{weights['layer']}" for name, weights in shown.items()]
    figure = make_subplots(len(shown), 1, subplot_titles=titles, shared_xaxes=True)
    for row, weights in enumerate(shown.values(), start=1):
        edges = np.array(weights["edges"])
        centres = (edges[1:] + edges[:-1]) / 2
        for kind, colour in (("pruned", "#bbbbbb"), ("kept", _COLOURS[0])):
            figure.add_bar(
                x=centres,
                y=[count or None for count in weights[kind]],  # 0 has no logarithm
                name=kind,
                marker_color=colour,
                opacity=0.8,
                showlegend=row == 1,
                hovertemplate=f"%{{y:,}} {kind} weights near %{{x:.3f}}<extra></extra>",
                row=row,
                col=1,
            )
    figure.update_layout(barmode="overlay", bargap=0, height=110 + 230 * len(shown))
    most = max(max(weights[kind]) for weights in shown.values() for kind in ("kept", "pruned"))
    figure.update_yaxes(
        type="log", title_text="weights", range=[-0.3, math.log10(2 * max(1, most))]
    )
    figure.update_xaxes(title_text="weight before pruning", row=len(shown), col=1)
    return _styled(figure)


def kept_largest(figures: Mapping[str, Report]) -> Figure | None:
    """Plot, for each layer, the share of kept weights that magnitude would keep too.

    Args:
        figures: content of figures.json by the name of the network.
    """
    shown = {name: entry["largest"] for name, entry in figures.items() if "largest" in entry}
    if not shown:
        return None
    figure = _figure("kept weights that are among the largest (%)", None)
    for colour, (name, shares) in zip(_cycle(), shown.items(), strict=False):
        figure.add_bar(
            x=list(shares),
            y=[100 * share for share in shares.values()],
            name=name,
            marker_color=colour,
            hovertemplate=f"{name}, %{{x}}: %{{y:.1f}}%<extra></extra>",
        )
    figure.update_yaxes(range=[0, 100])
    return figure


def exported_files(entries: Sequence[Report]) -> Figure | None:
    """Plot the robust accuracy of exported files against their size; circles grow with latency.

    Args:
        entries: see :func:`study_files.summarise`.
    """
    entries = [entry for entry in entries if "bytes" in entry and "era" in entry]
    if not entries:
        return None
    figure = _figure("robust accuracy of the file (%)", "size of the file (kB)")
    slowest = max(entry["milliseconds"]["mean"] for entry in entries)
    for colour, name in zip(_cycle(), dict.fromkeys(e["format"] for e in entries), strict=False):
        chosen = [entry for entry in entries if entry["format"] == name]
        times = [entry["milliseconds"]["mean"] for entry in chosen]
        texts = [f"{e['method']} {e['allocation'] or ''} {100 * e['density']:g}%" for e in chosen]
        figure.add_scatter(
            x=[entry["bytes"]["mean"] / 1000 for entry in chosen],
            y=[100 * entry["era"]["mean"] for entry in chosen],
            customdata=list(zip(texts, times, strict=True)),
            mode="markers",
            name=name,
            marker={"color": colour, "size": [8 + 16 * time / slowest for time in times]},
            hovertemplate="%{customdata[0]}: %{x:.1f} kB, %{y:.1f}%, %{customdata[1]:.3g} ms"
            f"<extra>{name}</extra>",
        )
    figure.update_xaxes(type="log")
    return figure


def _name(rows: Sequence[Report], method: str, allocation: str) -> str:
    """Return the name of a line: the method, and the allocation if the study has several."""
    return f"{method}, {allocation}" if allocation and has_allocations(rows) else method


def _add_line(
    figure: Figure,
    name: str,
    x: Iterable[float],
    y: Iterable[float],
    colour: str,
    unit: str,
    **options: Any,
) -> None:
    """Add a line with points that name their values."""
    options = {"mode": "lines+markers", "line": {"color": colour}, **options}
    text = f"{name}: %{{y:.1f}}% at {unit} %{{x:.3g}}<extra></extra>"
    figure.add_scatter(x=list(x), y=list(y), name=name, hovertemplate=text, **options)


def _cycle() -> Iterable[str]:
    """Return the colours of lines, again and again."""
    from itertools import cycle

    return cycle(_COLOURS)


def _figure(y: str, x: str | None) -> Figure:
    """Return an empty figure with titles of its axes."""
    from plotly.graph_objects import Figure

    figure = _styled(Figure())
    figure.update_yaxes(title_text=y)
    figure.update_xaxes(title_text=x)
    return figure


def _styled(figure: Figure) -> Figure:
    """Set the style that all plots share: a legend below that fits a narrow screen."""
    figure.update_layout(
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "y": -0.25, "yanchor": "top"},
        hovermode="closest",
        font={"size": 13},
    )
    return figure
