"""The tables, plots and page of a study."""

from __future__ import annotations

import os

from hydra_tf.core.files import replacing

from . import html_report, study_d95, study_files, study_pairs, study_results
from .study_cells import Study


def write(study: Study) -> str:
    """Write the tables and plots of all finished networks of a study.

    Args:
        study: the study, in whose folder ``report.json``, ``cells.csv``, ``table.md``, the plots
            and ``report.html`` are written.

    Returns:
        The tables as Markdown, and where the page is.
    """
    from hydra_tf import evaluation

    cells = study.finished()
    rows = [study_results.row_of(study, cell) for cell in cells]
    summary, d95 = study_results.summarise(rows), study_d95.smallest_densities(rows)
    files = study_files.summarise(rows)
    pairs = study_pairs.differences(rows)
    content = {"rows": rows, "table": summary, "d95": d95, "differences": pairs}
    content |= {"files": files} if files else {}
    evaluation.write_json(os.path.join(study.out, "report.json"), content)
    study_results.write_csv(rows, os.path.join(study.out, "cells.csv"))
    text = study_results.markdown(summary) + study_files.markdown(files)
    text += study_d95.markdown(d95) + study_pairs.markdown(pairs)
    with replacing(os.path.join(study.out, "table.md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    study_results.write_plots(rows, study.out)
    path = os.path.join(study.out, "report.html")
    html_report.write_page(study, cells, rows, files, text, path)
    return f"{text}\nOpen {path} in a browser.\n"
