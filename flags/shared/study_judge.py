"""The TFLite files of finished networks of a study, judged on test images."""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import logging

from . import judging, networks, run_directory, run_files, run_report, training_run
from .launcher import UsageError
from .types import Config, Report

KEY = "files"  # of report.json
FLOAT32 = "float32"
# What a file has in the tables, in the order of the columns.
MEASURES = {
    "bytes": "bytes",
    "gzip_bytes": "gzip bytes",
    "bound_ratio": "size / bound",
    "milliseconds": "ms",
    "dense_ratio": "ms / dense",
    "peak_bytes": "peak memory",
    "agreement": "agreement",
    "benign_accuracy": "benign",
    "era": "robust (era)",
    "keras_era": "Keras (era)",
    "vra_s": "certified (VRA-s)",
}


def add(out: str, config: Config, quantizations: Sequence[str], verbose: int) -> None:
    """Export a network in each format and judge the files, unless its report.json has them.

    A format in which the network cannot be exported gets an entry with the error; the next start
    tries it again.

    Args:
        out: run directory of the finished network.
        config: config of its run.
        quantizations: formats: ``none`` (float32), ``float16``, ``int8``, ``int8_float_logits``.
        verbose: as in Keras.

    Raises:
        UsageError: when the directory is in use by training, or is damaged.
    """
    run_directory.use(out)
    report = run_files.read_report(out)
    settings = {**judging.settings(config["objective"])}
    if "samples" in report:  # no more than the split has
        settings["samples"] = min(settings["samples"], report["samples"])
    known = {entry["format"]: entry for entry in report.get(KEY, [])}
    for quantization in quantizations:
        name = FLOAT32 if quantization == "none" else quantization
        if known.get(name, {}).get("settings") == settings and "judgement" in known[name]:
            continue
        known[name] = {
            "format": name,
            "settings": settings,
            **_judged(out, config, quantization, name, verbose),
        }
        run_report.add_to_report(out, {KEY: list(known.values())})


def _judged(out: str, config: Config, quantization: str, name: str, verbose: int) -> Report:
    """Return the judgement of a network in a format, or why it cannot be exported."""
    import numpy as np

    from hydra_tf import export

    net = networks.load_network(out)
    data = training_run.load_data(config, config["seed"])
    images = np.concatenate([x for x, _ in data.validation.take(2)])
    path = os.path.join(out, f"{name}.tflite")
    chosen = None if quantization == "none" else quantization
    try:
        exported = export.to_tflite(net, path, chosen, representative=images)
    except RuntimeError as error:
        logging.warning("hydra_tf: %s has no %s file: %s", out, name, error)
        return {"error": str(error)}
    plot = os.path.join(out, "plots", f"judgement_{name}.png")
    options = {"split": config["split"], "plot": plot, "verbose": verbose}
    judged = judging.judge(exported, net, data, config, images, **options)
    for warning in judged["warnings"]:
        logging.warning("hydra_tf: %s: %s", path, warning)
    return {"judgement": judged}


def figures(report: Report) -> dict[str, dict[str, float]]:
    """Return the measures of each file of a report by format; see :data:`MEASURES`.

    Args:
        report: report.json of a network.

    Raises:
        UsageError: when a judgement is damaged.
    """
    entries = [entry for entry in report.get(KEY, []) if "judgement" in entry]
    try:
        return {entry["format"]: _figures(entry["judgement"]) for entry in entries}
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise UsageError(
            "A report.json of the study is damaged: an entry of files lacks measures of its "
            "judgement; remove the entry, and flags.study --judge writes it again."
        ) from error


def _figures(judged: Report) -> dict[str, float]:
    """Return the measures of a judgement that are known."""
    latency, dense = judged["latency"], judged["dense_latency"]
    certified = judged.get("certified") or {}
    values = {
        **judged,
        "milliseconds": latency["milliseconds"],
        "dense_ratio": latency["milliseconds"] / dense["milliseconds"],
        "peak_bytes": latency["peak_bytes"],
        "vra_s": certified.get("vra_s"),
    }
    return {key: values[key] for key in MEASURES if values.get(key) is not None}


def columns(rows: Sequence[Report]) -> list[str]:
    """Return the names of the columns that any row has in cells.csv.

    Example:
        >>> columns([{"files": {"int8": {"bytes": 10, "era": 0.5}}}])
        ['int8_bytes', 'int8_era']
    """
    seen = {key for row in rows for key in flat(row)}
    formats = dict.fromkeys(name for row in rows for name in row.get(KEY, {}))
    return [f"{name}_{key}" for name in formats for key in MEASURES if f"{name}_{key}" in seen]


def flat(row: Report) -> dict[str, float]:
    """Return the measures of the files of a row by their columns in cells.csv."""
    return {
        f"{name}_{key}": value
        for name, measures in row.get(KEY, {}).items()
        for key, value in measures.items()
    }
