"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator


def checked_path(path: str | os.PathLike[str], suffix: str) -> pathlib.Path:
    """Return the target as a path, refusing what could never be written.

    Arguments and errors as in :func:`replacing`.

    Example:
        >>> checked_path("a.txt", ".txt").name
        'a.txt'
    """
    given: object = path
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f'The path must name a file that ends in "{suffix}", not {path!r}.')
    target = pathlib.Path(path)
    if target.suffix != suffix:
        raise ValueError(f'The file name must end in "{suffix}", but the path is "{target}".')
    if target.is_dir():
        raise IsADirectoryError(f'"{target}" is a folder; name a file to write.')
    if not target.parent.is_dir():
        raise FileNotFoundError(f'The folder "{target.parent}" does not exist; create it first.')
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f'Cannot write in the folder "{target.parent}": permission denied.')
    return target


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], suffix: str) -> Iterator[pathlib.Path]:
    """Give a temporary file beside `path` that takes its place when the context ends well.

    When the context ends with an error the temporary file is removed, and whatever stood
    at `path` before stays as it was.

    Args:
        path: the file to write in the end.
        suffix: what its name must end in, dot included.

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
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{suffix}")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise PermissionError(
            f'Cannot write in the folder "{target.parent}": {error.strerror}.'
        ) from error
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
