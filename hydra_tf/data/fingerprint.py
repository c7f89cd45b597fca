"""Hashes of data sets, by which a resumed run notices that its data have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

_HEAD = 1 << 16  # bytes read of each file
_FILES = 64  # files that are read of a folder


def array_hash(*arrays: Any) -> str:
    """Return a hash of the shapes and values of arrays or CPU tensors, without copying them.

    Args:
        *arrays: NumPy arrays or eager tensors.

    Example:
        >>> array_hash(np.zeros(3)) == array_hash(np.zeros(3)), len(array_hash(np.zeros(4)))
        (True, 12)
    """
    digest = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(np.asarray(memoryview(array)))
        digest.update(f"{values.dtype.str} {values.shape} ".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:12]


def folder_hash(root: str, paths: Sequence[str], labels: Any) -> str:
    """Return a hash of the names and classes of all images, and of the contents of some of them.

    Args:
        root: folder of the images, which may be moved.
        paths: the files.
        labels: [files] their classes.

    Example:
        >>> folder_hash("a", ["a/0/1.png"], [0]) == folder_hash("b", ["b/0/1.png"], [0])
        True
    """
    names = "\0".join(os.path.relpath(path, root) for path in paths)
    chosen = {paths[i] for i in np.linspace(0, len(paths) - 1, _FILES).astype(int)}
    return _hash([os.fsencode(names), np.asarray(labels, np.int64).tobytes()], sorted(chosen), open)


def files_hash(description: str, paths: Iterable[str], opener: Callable[..., Any]) -> str:
    """Return a hash of a description, and of the length and first bytes of files.

    Args:
        description: what else identifies the data.
        paths: the files.
        opener: opens a file, as `open` does.

    Example:
        >>> len(files_hash("mnist 3.0.1", [], open))
        12
    """
    return _hash([description.encode()], paths, opener)


def _hash(texts: Iterable[bytes], paths: Iterable[str], opener: Callable[..., Any]) -> str:
    """Return a hash of texts, and of the length and first bytes of files."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(b"%d " % len(text) + text)
    for path in paths:
        try:
            with opener(path, "rb") as file:
                head = file.read(_HEAD)
                file.seek(0, os.SEEK_END)
                digest.update(b"%d " % file.tell() + head)
        except OSError:  # named when the image is read
            digest.update(b"unreadable")
    return digest.hexdigest()[:12]
