"""Files that are written atomically."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import uuid
from collections.abc import Iterator

from hydra_tf.core import locks


def unfinished(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return a new temporary name for a file while it is written.

    The name is different at every call, so that two writers of one file do not share it.

    Example:
        >>> str(unfinished("runs/model.keras"))
        'runs/.model.unfinished-....keras'
    """
    target = pathlib.Path(path)
    token = uuid.uuid4().hex[:8]
    return target.with_name(f".{target.stem}.unfinished-{token}{target.suffix}")


def is_unfinished(name: str, target: str) -> bool:
    """Return whether a file has a temporary name of a target.

    Args:
        name: name of the file, without its folder.
        target: final name of the file.

    Example:
        >>> is_unfinished(".a.unfinished-0123abcd.txt", "a.txt"), is_unfinished("a.txt", "a.txt")
        (True, False)
    """
    path = pathlib.Path(target)
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    # Version 0.1 used a name without a token.
    return re.fullmatch(rf"\.{stem}\.unfinished(-[0-9a-f]{{8}})?{suffix}", name) is not None


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
    _remove_leftovers(target)
    with _temporary(target) as temporary, naming(target, temporary):
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)


@contextlib.contextmanager
def _temporary(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield an empty file next to the target, locked; remove it afterwards if it still exists."""
    while True:
        path = unfinished(target)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except OSError as error:
            raise PermissionError(
                f'Cannot write in the folder "{target.parent}": {error.strerror}.'
            ) from error
        # Another process may have taken the file for a leftover before it was locked.
        with contextlib.suppress(BlockingIOError):
            locks.lock(path, handle=handle)
            if path.exists():
                break
        os.close(handle)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _remove_leftovers(target: pathlib.Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote the target."""
    try:
        names = os.listdir(target.parent)
    except PermissionError:  # a folder in which files can be written but not listed
        return
    for path in (target.with_name(name) for name in names if is_unfinished(name, target.name)):
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:  # removed meanwhile, or of another user
            continue
        with contextlib.suppress(BlockingIOError):
            if locks.lock(path, handle=handle) is not None:
                path.unlink(missing_ok=True)
        os.close(handle)


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
