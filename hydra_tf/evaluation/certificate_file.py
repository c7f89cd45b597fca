"""The file of certificates: settings in the first line, then one image in each line."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from reprlib import repr as short
from typing import Any

import numpy as np

from hydra_tf.core.files import checked_path, naming
from hydra_tf.core.json_files import parse_object
from hydra_tf.core.locks import locked
from hydra_tf.evaluation.certify import ABSTAIN

Row = dict[str, Any]

_ROW_START = b'{"index": '
_NUMBERS = ("sigma", "n", "alpha")
_INFINITE = 1e300  # far beyond any number here; whole numbers of JSON have any size
_ROUNDING = 1 + 1e-6


@contextlib.contextmanager
def open_certificates(
    path: str | os.PathLike[str], settings: Mapping[str, Any]
) -> Iterator[list[Row]]:
    """Lock a file for this context, and yield its finished rows; a new file gets its first line.

    A last line that an interrupted call left incomplete is removed. Any other file is left
    unchanged.

    Args:
        path: the file, which need not exist.
        settings: the first line.

    Raises:
        ValueError: for a file of another kind, of other settings, or one that is damaged.
        BlockingIOError: when another process is writing to the file.
        OSError: when the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "certify.jsonl")
        >>> with open_certificates(path, {"sigma": 0.25, "n": 1000, "alpha": 0.001}) as rows:
        ...     rows
        []
    """
    target = checked_path(path)
    if target.exists() and not target.is_file():  # a pipe would block for ever
        raise ValueError(f"{target} is not a file; name another one for the certificates.")
    os.close(os.open(target, os.O_RDWR | os.O_CREAT, 0o666))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(target))
        except BlockingIOError:
            raise BlockingIOError(
                f"Another process is writing certificates to {target}; wait until it ends, or "
                "name another file."
            ) from None
        yield _finished_rows(os.fspath(target), settings)


def _finished_rows(path: str, settings: Mapping[str, Any]) -> list[Row]:
    """Return the finished rows of a file with these settings, after completing its first line."""
    header = json.dumps(settings, default=np.generic.item).encode() + b"\n"
    with open(path, "rb") as file:
        content = file.read()
    if header.startswith(content):  # a new file, or one whose first line was interrupted
        with naming(path), open(path, "wb") as file:
            file.write(header)
        return []
    first, rows = read_certificates(path)
    if first != settings:
        differing = ", ".join(key for key in settings if first.get(key) != settings[key])
        raise ValueError(
            f"{path} has certificates for other settings ({differing}); write to another file, or "
            "remove this one."
        )
    os.truncate(path, content.rfind(b"\n") + 1)
    return rows


def read_certificates(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Row]]:
    """Return the settings and the finished rows of a file of :func:`certify_dataset`.

    Every row is checked: its index, and that class, radius and ``correct`` are consistent with
    one another and with the settings.

    Args:
        path: the file.

    Raises:
        ValueError: for a file of another kind, or one that is damaged; the sentence names the
            line.
        FileNotFoundError: when there is no file.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "certify.jsonl")
        >>> with open_certificates(path, {"sigma": 0.25, "n": 1000, "alpha": 0.001}):
        ...     read_certificates(path)
        ({'sigma': 0.25, 'n': 1000, 'alpha': 0.001}, [])
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{os.fspath(path)} is not a file.")
    with open(path, "rb") as file:
        *lines, last = file.read().split(b"\n")
    number = 0
    try:
        if not lines:
            raise ValueError("it has no first line")
        first = parse_object(lines[0])
        most = _largest_radius(first)
        rows = []
        for number, line in enumerate(lines[1:], start=1):
            rows.append(parse_object(line))
            _check_row(rows[-1], number - 1, most)
        number = len(lines)
        if not (last.startswith(_ROW_START) or _ROW_START.startswith(last)):
            raise ValueError("it is not an unfinished certificate")
    except ValueError as error:
        raise ValueError(
            f"{os.fspath(path)} is damaged, or not a file of certificates (line {number + 1}: "
            f"{error}); write to another file, or remove this one."
        ) from None
    return first, rows


def _largest_radius(settings: Mapping[str, Any]) -> float:
    """Return the radius when all draws agree, after checking the settings.

    Raises:
        ValueError: for settings that are missing or out of range.
    """
    from scipy.stats import norm

    values: list[Any] = [settings.get(key) for key in _NUMBERS]
    if not all(_is_number(value) for value in values):
        raise ValueError(f"it has no numbers {', '.join(_NUMBERS)}")
    sigma, n, alpha = values
    if not (sigma > 0 and n >= 1 and 0 < alpha < 1):
        raise ValueError(f"{', '.join(_NUMBERS)} are out of range")
    return max(0.0, float(sigma * norm.ppf(alpha ** (1 / n))))


def _check_row(row: Row, index: int, most: float) -> None:
    """Check the certificate of one image.

    Args:
        row: the certificate.
        index: the expected index.
        most: the largest possible radius.

    Raises:
        ValueError: with what is wrong.
    """
    values: list[Any] = [row.get(key) for key in ("label", "predicted", "radius")]
    label, predicted, radius = values
    if type(row.get("index")) is not int or row["index"] != index:
        raise ValueError(f"its index is {short(row.get('index'))}, not {index}")
    if not isinstance(row.get("image", ""), str):  # older versions did not write it
        raise ValueError("image must be a hash")
    if type(label) is not int or label < 0:
        raise ValueError(f"label must be a class, not {short(label)}")
    if type(predicted) is not int or predicted < ABSTAIN:
        raise ValueError(f"predicted must be a class, or {ABSTAIN}, not {short(predicted)}")
    if not _is_number(radius) or not 0 <= radius <= most * _ROUNDING:
        raise ValueError(f"radius must be from 0 to {most:g}, not {short(radius)}")
    if (predicted == ABSTAIN) != (radius == 0):
        raise ValueError(f"predicted is {predicted}, but radius is {radius}")
    if row.get("correct") is not (predicted == label):
        raise ValueError(
            f"correct is {short(row.get('correct'))}, but label is {label} and predicted "
            f"{predicted}"
        )


def _is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number."""
    return type(value) in (int, float) and abs(value) < _INFINITE
