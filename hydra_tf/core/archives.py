"""NumPy archives from files that may be damaged."""

from __future__ import annotations

import errno
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

# Errors of reading a truncated or changed archive; errors of the disk are not among them.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
    *(ValueError, KeyError, IndexError, TypeError, EOFError, SyntaxError),
    # Of a shape beyond int64; of an entry that claims to be encrypted.
    *(OverflowError, RuntimeError),
)
_LONGEST = 200  # characters of a message, which may repeat bytes of the file


def read_archive(
    path: str | os.PathLike[str], choices: Iterable[Iterable[str]] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Return arrays of a ``.npz`` file; never run code.

    Args:
        path: the file.
        choices: names of arrays; the first choice of which the file has all names is read. None
            reads all arrays.

    Raises:
        ValueError: for a file that is damaged or not an archive, or has none of the choices; the
            text is the reason alone.
        OSError: for a file that cannot be read.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
        >>> np.savez(path, a=np.arange(3), b=np.zeros(2))
        >>> read_archive(path, [["c"], ["a"]])
        {'a': array([0, 1, 2])}
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb"):  # an error of the disk is another one
            raise ValueError("it is not an archive, or is cut short")
    try:
        return _read(path, choices)
    except OSError as error:
        # bz2 raises an error without a number; a damaged index leads to an invalid position.
        if error.errno in (None, errno.EINVAL):
            raise ValueError(str(error)) from error
        raise
    except MemoryError as error:
        if _is_whole(path):
            raise
        raise ValueError("one of its arrays is damaged") from error
    except _DAMAGE as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(text[:_LONGEST].rstrip(". ")) from error


def _read(
    path: str | os.PathLike[str], choices: Iterable[Iterable[str]] | None
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of :func:`read_archive`, or raise any error."""
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        for choice in [names] if choices is None else map(list, choices):
            if set(choice) <= set(names):
                return {name: _array(archive.zip, name) for name in choice}
    raise ValueError(f"it contains {', '.join(names) or 'nothing'}")


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """Return an array of an archive, read to its end, where zipfile compares the checksum."""
    entry = f"{name}.npy"
    entry = entry if entry in archive.namelist() else name
    with archive.open(entry) as stream:
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"{name} is not an array")
    with archive.open(entry) as stream:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"{name} has more bytes than its array")
    return array


def _is_whole(path: str | os.PathLike[str]) -> bool:
    """Return whether the checksums of an archive are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, *_DAMAGE):
        return False
