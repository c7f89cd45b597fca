"""The page report.html: sections of plots, tables and images in one file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from hydra_tf.core.files import replacing

from .. import run_files, study_results
from ..study_cells import Cell, Study
from ..types import Report
from . import plots
from .figures import read_figures

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Settings that the head of the page shows.
_SHOWN = (
    "dataset", "model", "objective", "attacks", "split", "pretrain_epochs", "prune_epochs",
    "finetune_epochs", "granularity", "density_schedule",
)  # fmt: skip

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 60rem;
       padding: 0 1rem 4rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #eee; text-align: left;
         white-space: nowrap; }
.warning { background: #fff3cd; border-left: 4px solid #e69f00; padding: 0.5rem 1rem; }
.absent { color: #666; font-style: italic; }
.gallery { overflow-x: auto; } .gallery img { width: 72px; height: 72px;
       image-rendering: pixelated; display: block; }
.gallery td { text-align: center; font-size: 13px; padding: 0.25rem; } .wrong { color: #c00; }
nav a { margin-right: 1rem; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: heading.
        text: how to read it.
        body: HTML, or a Plotly figure; None if there is nothing to show.
        absent: why there may be nothing to show.
    """

    title: str
    text: str
    body: Any
    absent: str = ""


def write_page(
    study: Study,
    cells: Sequence[Cell],
    rows: Sequence[Report],
    files: Sequence[Report],
    tables: str,
    path: str,
) -> None:
    """Write the page of a study.

    Args:
        study: the study.
        cells: its finished networks.
        rows: their results; see :func:`study_results.row_of`.
        files: its exported files; see :func:`study_files.summarise`.
        tables: text of table.md.
        path: the page, which is replaced when it is complete.
    """
    with replacing(path, ".html") as temporary:
        temporary.write_text(page(study, cells, rows, files, tables), encoding="utf-8")


def write_index(tables: Mapping[str, str], path: str) -> None:
    """Write a page with the tables of several studies, and links to their pages.

    Args:
        tables: text of table.md by the name of the folder, which is next to the page.
        path: the page, which is replaced when it is complete.
    """
    parts = "".join(
        f'<h2>{escape(name)}</h2><p><a href="{escape(name)}/report.html">All plots</a></p>'
        f"{tables_html(text)}"
        for name, text in tables.items()
    )
    with replacing(path, ".html") as temporary:
        html = f"{_head('Studies')}</head><body><h1>Studies</h1>{parts}</body></html>\n"
        temporary.write_text(html, encoding="utf-8")


def _head(title: str) -> str:
    """Return the beginning of a page, with its title and style."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )


def page(
    study: Study,
    cells: Sequence[Cell],
    rows: Sequence[Report],
    files: Sequence[Report],
    tables: str,
) -> str:
    """Return the HTML of the page of a study; see :func:`write_page`."""
    from plotly.offline import get_plotlyjs

    sections = list(_sections(study, cells, rows, files, tables))
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    settings = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(study.settings[name]))}</td></tr>"
        for name in _SHOWN
        if study.settings.get(name) not in (None, "")
    )
    title = f"Study of {study.settings['dataset']}"
    return (
        f"{_head(title)}"
        f"<script>{get_plotlyjs()}</script></head><body><h1>{escape(title)}</h1>"
        f"<p>{len(rows)} networks, written by hydra_tf. Point at a plot to read its values; a "
        "click on a name in a legend hides its line.</p>"
        f'<div class="table"><table>{settings}</table></div><nav>{links}</nav>'
        f"{_warnings(rows)}{body}</body></html>\n"
    )


def _sections(
    study: Study,
    cells: Sequence[Cell],
    rows: Sequence[Report],
    files: Sequence[Report],
    tables: str,
) -> Iterator[Section]:
    """Yield the sections of the page, from the main results to details of single networks."""
    measures = {m: study_results.MEASURES.get(m, m) for m in study_results.measured(rows)}
    yield Section(
        "Accuracy against density",
        "Mean over seeds; the band is one standard deviation. Benign accuracy is on images as they "
        "are, era on images under all attacks of the study; certified and verified accuracy are "
        "proven.",
        _join(plots.accuracy_against_density(rows, m, title) for m, title in measures.items()),
        "no network is finished",
    )
    text = tables_html(tables) if rows else ""
    yield Section("Tables", "Accuracy in percent.", text, "no network is finished")
    first = min((cell.seed for cell in cells), default=0)
    cells = [cell for cell in cells if cell.seed == first]
    shown = [*filter(lambda cell: cell.is_dense, cells), *_smallest(study, cells)]
    figures = {name: read_figures(out) for name, out in _directories(study, shown)}
    yield Section(
        "Security curves",
        f"Dense networks and those of the smallest density, seed {first}, also at other epsilons "
        "than that of training. At 0.5 in Linf any image can become grey: an accuracy well above "
        "chance there is a sign of an attack that fails.",
        plots.security_curves(figures),
        "the objective has no epsilon, or --report_samples is 0",
    )
    yield Section(
        "Certified accuracy against radius",
        f"By randomized smoothing, networks of seed {first}.",
        plots.certified_accuracy(_certificates(study, cells)),
        "no network was certified by randomized smoothing",
    )
    yield from _chosen_weights(study, cells, first)
    yield Section(
        "Images and their adversarial twins",
        "The first images of the split. Above: the image and its class. Below: its adversarial "
        "twin for each network, and the class that the network sees in it, red if it is wrong.",
        _gallery(figures),
        "the objective has no epsilon, or --report_samples is 0",
    )
    yield Section(
        "Exported files",
        "TFLite files in LiteRT. Larger circles are slower.",
        plots.exported_files(files),
        "no file was judged; add --judge to the command of the study",
    )


def _chosen_weights(study: Study, cells: Sequence[Cell], seed: int) -> Iterator[Section]:
    """Yield the sections about the weights that the smallest networks keep."""
    chosen = _smallest(study, cells)
    smallest = min((cell.density for cell in chosen), default=1.0)
    note = f"Networks of seed {seed} with {100 * smallest:g}% of the weights."
    reports = {name: run_files.read_report(out) for name, out in _directories(study, chosen)}
    layers = {name: report["layers"] for name, report in reports.items() if "layers" in report}
    yield Section(
        "Density of each layer",
        note,
        plots.layer_densities(layers),
        "no pruned network is finished",
    )
    figures = {name: read_figures(out) for name, out in _directories(study, chosen)}
    yield Section(
        "Kept and pruned weights",
        f"{note} Weights of the dense network in its largest layer. Pruning by magnitude (lwm) "
        "keeps the largest; trained scores also keep small weights and prune large ones.",
        _join([plots.weight_histograms(figures), plots.kept_largest(figures)]),
        "no pruned network is finished, or --report_samples is 0",
    )


def _smallest(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """Return the pruned networks of the smallest density, of those with figures.json if any."""
    pruned = [cell for cell in cells if not cell.is_dense]
    known = [cell for cell in pruned if read_figures(study.directory(cell))]
    smallest = min((cell.density for cell in known or pruned), default=1.0)
    return [cell for cell in pruned if cell.density == smallest]


def _directories(study: Study, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Return the name and the run directory of each network."""
    names = {cell: study.folder(cell).replace("_", " ") for cell in cells}
    return [(names[cell], study.directory(cell)) for cell in cells]


def _certificates(study: Study, cells: Sequence[Cell]) -> dict[str, Sequence[Report]]:
    """Return the rows of certify.jsonl of the networks that have them."""
    from hydra_tf.evaluation.certificate_file import read_certificates

    paths = {name: os.path.join(out, "certify.jsonl") for name, out in _directories(study, cells)}
    found = {n: read_certificates(path)[1] for n, path in paths.items() if os.path.exists(path)}
    return {name: rows for name, rows in found.items() if rows}


def _warnings(rows: Sequence[Report]) -> str:
    """Return a warning for each network on which an attack found too few gradients."""
    from hydra_tf.attacks.gradients import MAX_SHARE

    stuck = [row for row in rows if row.get("zero_gradient_share", 0.0) > MAX_SHARE]
    lines = "".join(
        f"<li>{escape(' '.join(filter(None, (row['method'], row['allocation']))))} at "
        f"{100 * row['density']:g}%, seed {row['seed']}: no gradient for "
        f"{100 * row['zero_gradient_share']:.1f}% of the images</li>"
        for row in stuck
    )
    if not stuck:
        return ""
    return (
        '<div class="warning">An attack stood still: these networks may seem robust for that '
        f"reason only. Attack them with square, which needs no gradients.<ul>{lines}</ul></div>"
    )


def _section(number: int, section: Section) -> str:
    """Return the HTML of a section."""
    body = section.body
    if body is None or body == "":
        html = f'<p class="absent">Nothing to show: {escape(section.absent)}.</p>'
    else:
        html = body if isinstance(body, str) else _html(body)
    return f'<h2 id="s{number}">{escape(section.title)}</h2><p>{escape(section.text)}</p>{html}'


def _html(figure: Figure) -> str:
    """Return the HTML of a figure, which needs the script of the page."""
    config = {"responsive": True, "displaylogo": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config))


def _join(figures: Any) -> str:
    """Return the HTML of several figures; None are left out."""
    return "".join(_html(figure) for figure in figures if figure is not None)


def tables_html(text: str) -> str:
    r"""Return the HTML of paragraphs and tables in Markdown.

    Args:
        text: what :func:`study_results.markdown_table` and the notes between tables consist of.

    Example:
        >>> tables_html("Note.\n\n| a |\n|---|\n| 1 |\n")
        '<p>Note.</p><div class="table"><table><tr><th>a</th></tr><tr><td>1</td></tr></table></div>'
    """
    blocks = [block.strip() for block in text.split("\n\n")]
    parts = [part for block in blocks for part in _split_table(block)]
    return "".join(
        _table(part) if part.startswith("|") else f"<p>{escape(part)}</p>" for part in parts if part
    )


def _split_table(block: str) -> list[str]:
    """Return the text before a table and the table of a block."""
    lines = block.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("|")), len(lines))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return ["\n".join(part) for part in (lines[:start], lines[start:end], lines[end:])]


def _table(text: str) -> str:
    """Return the HTML of a table in Markdown."""
    heads, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
    ]
    body = [("th", heads), *(("td", row) for row in rows)]
    lines = "".join(
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>" for tag, row in body
    )
    return f'<div class="table"><table>{lines}</table></div>'


def _gallery(figures: Mapping[str, Report]) -> str:
    """Return a table of images: a column for each image, a row for each network."""
    entries = {name: entry["gallery"] for name, entry in figures.items() if entry.get("gallery")}
    if not entries:
        return ""
    first = next(iter(entries.values()))
    originals = "".join(_picture(e["images"][0], f"class {e['label']}", False) for e in first)
    rows = [f"<tr><th>image</th>{originals}</tr>"]
    for name, gallery in entries.items():
        twins = "".join(
            _picture(e["images"][1], str(e["predicted"][1]), e["predicted"][1] != e["label"])
            for e in gallery
        )
        rows.append(f"<tr><th>{escape(name)}</th>{twins}</tr>")
    return f'<div class="gallery"><table>{"".join(rows)}</table></div>'


def _picture(content: str, caption: str, wrong: bool) -> str:
    """Return a cell of the gallery."""
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{content}">'
    return f"<td{' class=wrong' if wrong else ''}>{image}{escape(caption)}</td>"
