"""Gzip by libdeflate, which finds shorter encodings of pruned kernels than zlib does.

zlib takes the next match that is long enough. libdeflate compares whole sequences of matches, as
Zopfli does, and pruned kernels are mostly short runs of zeros, which can be written in many ways.
"""

from __future__ import annotations

import gzip

_LEVEL = 12


def gzipped(content: bytes) -> bytes:
    """Return bytes after gzip by libdeflate at its highest level, the same at every call.

    Every gzip program reads the result.

    Args:
        content: any bytes.

    Example:
        >>> gzip.decompress(gzipped(b"text"))
        b'text'
    """
    import deflate  # only `.gz` files need it

    return bytes(deflate.gzip_compress(content, _LEVEL))


def level_9_bytes(content: bytes) -> int:
    """Return the number of bytes after Python's gzip at level 9.

    Example:
        >>> level_9_bytes(bytes(1000)) < 50
        True
    """
    return len(gzip.compress(content, compresslevel=9, mtime=0))
