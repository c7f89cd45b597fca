"""Stopping a run whose machine is preempted: SIGTERM takes effect between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class PreemptionError(Exception):
    """Training was stopped by SIGTERM; it resumes from its checkpoint, if it has one.

    Example:
        >>> from hydra_tf.training import PreemptionError
        >>> def train_until_preempted():
        ...     raise PreemptionError("Stopped by SIGTERM.")  # as hydra_tf.training.train does
        >>> try:
        ...     train_until_preempted()
        ... except PreemptionError as stop:
        ...     print(f"{stop} Start the same command again to continue.")
        Stopped by SIGTERM. Start the same command again to continue.
    """


@contextlib.contextmanager
def sigterm_deferred() -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM within this context; yield a function that returns whether it was received.

    Outside of the main thread, where Python receives no signals, the function returns False.
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
    if received.is_set():  # for the previous handler, as the context ended before it took effect
        signal.raise_signal(signal.SIGTERM)
