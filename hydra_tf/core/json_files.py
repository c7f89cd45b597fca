"""JSON objects from files that may be damaged."""

from __future__ import annotations

import json
import os
from typing import Any


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a text.

    Args:
        text: JSON; bytes are decoded as UTF-8.

    Raises:
        ValueError: for a text that is not JSON, is nested too deeply to be read, or is not an
            object.

    Example:
        >>> parse_object('{"era": 0.5}')
        {'era': 0.5}
    """
    try:
        content = json.loads(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:  # not JSON, or not even text
        raise ValueError("it is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is not a file, or not a JSON object; the sentence names it.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a.json")
        >>> _ = path.write_text("[" * 100_000)
        >>> read_object(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: ...a.json is damaged: it is nested too deeply.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block for ever
        raise ValueError(f"{os.fspath(path)} is not a file.")
    with open(path, "rb") as file:
        content = file.read()
    try:
        return parse_object(content)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} is damaged: {error}.") from None
