"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator


def unfinished(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the name that a file has until it is whole.

    It is always the same, so that what a killed process left behind is written over.

    Example:
        >>> str(unfinished("runs/model.keras"))
        'runs/.model.unfinished.keras'
    """
    target = pathlib.Path(path)
    return target.with_name(f".{target.stem}.unfinished{target.suffix}")


def checked_path(path: str | os.PathLike[str], suffix: str | None = None) -> pathlib.Path:
    """Return the target as a path, refusing what could never be written.

    Arguments and errors as in :func:`replacing`.

    Example:
        >>> checked_path("a.txt", ".txt").name
        'a.txt'
    """
    given: object = path
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f'The path must name a file that ends in "{suffix or ""}", not {path!r}.')
    target = pathlib.Path(path)
    if suffix is not None and target.suffix != suffix:
        raise ValueError(f'The file name must end in "{suffix}", but the path is "{target}".')
    if target.is_dir():
        raise IsADirectoryError(f'"{target}" is a folder; name a file to write.')
    if not target.parent.is_dir():
        raise FileNotFoundError(f'The folder "{target.parent}" does not exist; create it first.')
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f'Cannot write in the folder "{target.parent}": permission denied.')
    return target


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], suffix: str | None = None) -> Iterator[pathlib.Path]:
    """Give a temporary file beside `path` that takes its place when the context ends well.

    When the context ends with an error the temporary file is removed, and whatever stood
    at `path` before stays as it was. Both the file and its new name are on the disk when the
    context is left, so that they outlast a loss of power.

    Args:
        path: the file to write in the end.
        suffix: what its name must end in, dot included; None for anything.

    Raises:
        TypeError: for what is no path.
        ValueError: for another suffix.
        FileNotFoundError: when the folder is missing.
        IsADirectoryError: when the path is a folder.
        PermissionError: when the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> target = pathlib.Path(tempfile.mkdtemp(), "a.txt")
        >>> with replacing(target, ".txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    target = checked_path(path, suffix)
    temporary = unfinished(target)
    try:
        temporary.touch()
    except OSError as error:
        raise PermissionError(
            f'Cannot write in the folder "{target.parent}": {error.strerror}.'
        ) from error
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, target)
        _to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: pathlib.Path) -> None:
    """Wait until a file, or the names in a folder, have been written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
