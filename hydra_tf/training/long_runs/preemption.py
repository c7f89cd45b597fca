"""Stopping when the machine is taken away: SIGTERM, noted and acted on between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class PreemptionError(Exception):
    """Training was told to stop, and its checkpoint holds where it stands."""


@contextlib.contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Within this context SIGTERM ends nothing; yields a function that says if it came.

    Outside of the main thread, where Python takes no signals, it never says so.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    except BaseException:
        signal.signal(signal.SIGTERM, before)
        raise
    signal.signal(signal.SIGTERM, before)
    if asked.is_set():  # it came too late to be acted on: whoever comes next shall hear of it
        signal.raise_signal(signal.SIGTERM)
