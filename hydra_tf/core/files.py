"""Files that are written atomically."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator


def unfinished(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the temporary name of a file while it is written.

    The name is always the same, so that a file left by a killed process is overwritten.

    Example:
        >>> str(unfinished("runs/model.keras"))
        'runs/.model.unfinished.keras'
    """
    target = pathlib.Path(path)
    return target.with_name(f".{target.stem}.unfinished{target.suffix}")


def checked_path(path: str | os.PathLike[str], suffix: str | None = None) -> pathlib.Path:
    """Return the target as a path, after checking that it can be written.

    Arguments and errors as in :func:`replacing`.

    Example:
        >>> checked_path("a.txt", ".txt").name
        'a.txt'
    """
    value: object = path
    if not isinstance(value, str | os.PathLike):
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
    """Yield a temporary file next to `path` that replaces it when the context succeeds.

    If the context ends with an error, the temporary file is removed and the file at `path` is
    not changed. On success, the file and its name are synced to the disk, so that they survive
    a power loss.

    Args:
        path: the final path of the file.
        suffix: required suffix of its name, with the dot; None for any.

    Raises:
        TypeError: for a value that is not a path.
        ValueError: for another suffix.
        FileNotFoundError: when the folder does not exist.
        IsADirectoryError: when the path is a folder.
        PermissionError: when the folder cannot be written to.
        OSError: an error of the disk within the context; it names the file.

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
        with naming(target, temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(
    path: str | os.PathLike[str], temporary: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Add the path of a file to errors of the disk that name no file, such as a full disk.

    Args:
        path: the file that is written within the context.
        temporary: its temporary name, which is replaced by `path` in errors.

    Raises:
        OSError: the error with the path.

    Example:
        >>> import errno
        >>> with naming("runs/a.json"):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: [Errno 28] No space left on device: 'runs/a.json'
    """
    try:
        yield
    except OSError as error:
        unnamed = (None, temporary and os.fspath(temporary))
        if error.errno is not None and error.filename in unnamed:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        if error.errno is None and type(error) is OSError:  # of a library such as HDF5
            raise OSError(f"{os.fspath(path)} cannot be written: {error}") from error
        raise


def _sync(path: pathlib.Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
