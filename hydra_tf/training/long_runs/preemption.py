"""Stopping when the machine is taken away: SIGTERM takes effect between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class PreemptionError(Exception):
    """Training was told to stop, and its checkpoint stores the position of the run."""


@contextlib.contextmanager
def sigterm_deferred() -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM within this context; yield a function that says whether it came.

    Outside of the main thread, where Python receives no signals, it always returns False.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return
    handler = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received.is_set
    except BaseException:
        signal.signal(signal.SIGTERM, handler)
        raise
    signal.signal(signal.SIGTERM, handler)
    if received.is_set():  # too late for this context, so the previous handler gets it
        signal.raise_signal(signal.SIGTERM)
