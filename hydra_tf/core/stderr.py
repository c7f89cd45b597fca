"""Hiding what C++ libraries write to the standard error stream."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

# Two threads that redirect the stream at once would not restore it.
_REDIRECTED = threading.RLock()


@contextlib.contextmanager
def hidden_stderr(show_on_error: bool = False) -> Iterator[None]:
    """Hide what is written to file descriptor 2 in this context, also by C++ code.

    One thread at a time is in such a context; others wait.

    Args:
        show_on_error: whether the hidden text is shown if the context ends with an exception.

    Example:
        >>> with hidden_stderr():
        ...     _ = os.write(2, b"hidden")
    """
    with _REDIRECTED:
        sys.stderr.flush()
        screen = os.dup(2)
        with tempfile.TemporaryFile() as hidden:
            os.dup2(hidden.fileno(), 2)
            try:
                yield
            except BaseException:
                if show_on_error:
                    hidden.seek(0)
                    os.write(screen, hidden.read())
                raise
            finally:
                sys.stderr.flush()
                os.dup2(screen, 2)
                os.close(screen)
