"""The JSON files of a run directory, read and checked before any work."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import Any

from hydra_tf.core.json_files import parse_object, read_object

from .launcher import UsageError
from .types import Config, Report

# Keys that every config has; whole numbers with their ranges.
_TEXTS = ("dataset", "objective", "attacks", "split")
_NUMBERS = {"batch_size": (1, 2**31 - 1), "seed": (0, 2**63 - 1)}
_SPLITS = ("test", "validation")
# Keys that a report may have.
_SHARES = ("benign_accuracy", "era", "vra_s", "vra_m", "vra_t", "density")
_MAPPINGS = ("verified", "smoothing", "certificate", "pretrained", "distances")
_LISTS = ("attacks", "layers", "further_attacks", "files")


def read_config(run: str) -> Config:
    """Return the config of a run directory.

    Raises:
        UsageError: when it does not exist or is damaged.
    """
    path = os.path.join(run, "config.json")
    if os.path.isfile(run):
        raise UsageError(f"{run} is a file, not a run directory.")
    try:
        content = read_object(path)
    except FileNotFoundError:
        raise UsageError(f"{run} is not a run directory: it has no config.json.") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    if problem := _config_problem(content):
        raise UsageError(f"{path} is not the config of a run of hydra_tf: {problem}.")
    return content


def _config_problem(content: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a config, or None."""
    for key in (*_TEXTS, *_NUMBERS):
        if key not in content:
            return f"{key} is missing"
    for key in _TEXTS:
        if not isinstance(content[key], str):
            return f"{key} must be a text, not {reprlib.repr(content[key])}"
    for key, (least, most) in _NUMBERS.items():
        value = content[key]
        if type(value) is not int or not least <= value <= most:
            return f"{key} must be a whole number from {least} to {most}, not {reprlib.repr(value)}"
    if content["split"] not in _SPLITS:
        return f"split must be {' or '.join(_SPLITS)}, not {reprlib.repr(content['split'])}"
    return _spec_problem(content)


def _spec_problem(content: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the data sets and the objective of a config, or None."""
    from hydra_tf import data, objectives
    from hydra_tf.data.extra_images import split_share

    try:
        data.DATASETS.build(content["dataset"])
        objectives.OBJECTIVES.build(content["objective"])
        if content.get("extra"):
            data.DATASETS.build(split_share(content["extra"])[0])
    except (ValueError, TypeError, ImportError) as error:
        return str(error).rstrip(".")
    return None


def read_report(run: str) -> Report:
    """Return the report of a run directory.

    Raises:
        UsageError: when it does not exist or is damaged.
    """
    path = os.path.join(run, "report.json")
    again = "move it away, and flags.evaluate writes a new one"
    try:
        content = read_object(path)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; has the run finished?") from None
    except ValueError as error:
        raise UsageError(f"{str(error).rstrip('.')}; {again}.") from None
    if problem := _report_problem(content):
        raise UsageError(f"{path} is damaged: {problem}; {again}.")
    return content


def _report_problem(content: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a report, or None."""
    for keys, kind, name in ((_MAPPINGS, dict, "an object"), (_LISTS, list, "a list")):
        for key in keys:
            if key in content and not isinstance(content[key], kind):
                return f"{key} must be {name}, not {reprlib.repr(content[key])}"
    for key in _LISTS:
        for entry in content.get(key, ()):
            if not isinstance(entry, dict):
                return f"an entry of {key} must be an object, not {reprlib.repr(entry)}"
    for key in _SHARES:
        value = content.get(key, 0)
        if not _is_share(value):
            return f"{key} must be a number from 0 to 1, not {reprlib.repr(value)}"
    if content.get("split", "test") not in _SPLITS:
        return f"split must be {' or '.join(_SPLITS)}, not {reprlib.repr(content['split'])}"
    if not _is_count(content.get("samples", 1)):
        return f"samples must be a whole number from 1, not {reprlib.repr(content['samples'])}"
    for entry in content.get("further_attacks", ()):
        if not (isinstance(entry.get("spec"), str) and _is_count(entry.get("samples"))):
            return "an entry of further_attacks needs the text spec and the whole number samples"
        if not _is_share(entry.get("robust_accuracy")):
            return "an entry of further_attacks needs robust_accuracy, a number from 0 to 1"
    if not all(map(_is_judged_file, content.get("files", ()))):
        return "an entry of files needs the text format, and the object judgement or the text error"
    return None


def _is_judged_file(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry of a report is about a TFLite file, as `study_judge` writes it."""
    result = ("judgement", dict) if "judgement" in entry else ("error", str)
    return all(isinstance(entry.get(key), kind) for key, kind in (("format", str), result))


def _is_count(value: object) -> bool:
    """Return whether a value is a whole number from 1."""
    return type(value) is int and value >= 1


def _is_share(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return type(value) in (int, float) and 0 <= value <= 1


def read_metrics(run: str) -> list[Report]:
    """Return the metrics of the epochs of a run, none if it has no metrics.jsonl.

    Raises:
        UsageError: when the file is damaged; the sentence names the line.
    """
    path = os.path.join(run, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    if not os.path.isfile(path):
        raise UsageError(f"{path} is not a file.")
    rows: list[Report] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(_metrics_of(line))
            except ValueError as error:
                raise UsageError(
                    f"{path} is damaged in line {number}: {error}; move it away, and the epochs "
                    "in it are missing in the plot only."
                ) from None
    return rows


def _metrics_of(line: bytes) -> Report:
    """Return the metrics in a line, or raise ValueError with what is wrong."""
    row = parse_object(line)
    if type(row.get("epoch")) is not int or not 1 <= row["epoch"] < 2**31:
        raise ValueError(
            f"epoch must be a whole number from 1, not {reprlib.repr(row.get('epoch'))}"
        )
    if not isinstance(row.get("phase"), str):
        raise ValueError(f"phase must be a text, not {reprlib.repr(row.get('phase'))}")
    for key, value in row.items():
        if key != "phase" and type(value) not in (int, float):
            raise ValueError(f"{key} must be a number, not {reprlib.repr(value)}")
    return row
