"""Locks of files and folders against other processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def locked(
    path: str | os.PathLike[str], shared: bool = False, wait: bool = False
) -> Iterator[None]:
    """Lock a file or folder for this context against other processes that lock it.

    Where the operating system has no such locks, nothing is locked; where the file system has none,
    a warning says so.

    Args:
        path: a file or folder that exists.
        shared: whether others may have a shared lock too.
        wait: whether to wait for the lock.

    Raises:
        BlockingIOError: when another process has the lock, unless `wait`.

    Example:
        >>> import tempfile
        >>> with locked(folder := tempfile.mkdtemp(), shared=True), locked(folder, shared=True):
        ...     pass
    """
    handle = lock(path, shared, wait)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def lock(
    path: str | os.PathLike[str],
    shared: bool = False,
    wait: bool = False,
    handle: int | None = None,
) -> int | None:
    """Lock a file or folder; return the file descriptor whose end is that of the lock.

    Args:
        path: as in :func:`locked`.
        shared: as in :func:`locked`.
        wait: as in :func:`locked`.
        handle: the descriptor of a lock that this process has, which is changed.

    Returns:
        The descriptor, or None where there are no such locks.

    Raises:
        BlockingIOError: as :func:`locked`.

    Example:
        >>> import tempfile
        >>> os.close(lock(tempfile.mkdtemp()))
    """
    try:
        import fcntl
    except ImportError:  # the operating system has none
        return None
    mine = os.open(path, os.O_RDONLY) if handle is None else handle
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(mine, kind if wait else kind | fcntl.LOCK_NB)
    except OSError as error:
        if handle is None:
            os.close(mine)
        if isinstance(error, BlockingIOError):
            raise BlockingIOError(f"Another process is using {os.fspath(path)}.") from None
        logging.log_first_n(
            logging.WARNING,
            "hydra_tf: %s cannot be locked (%s), so no two processes may use it at once.",
            1,
            os.fspath(path),
            error.strerror,
        )
        return None  # the file system has none
    return mine
