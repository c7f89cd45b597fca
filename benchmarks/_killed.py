"""Processes of the binaries that are forked, so that a start takes no import, and killed.

The parent imports TensorFlow but computes nothing with it; a child of a process that has computed
would hang.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# Audit events of operations that change files; a process can be killed before each of them.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


def preload() -> None:
    """Import what the binaries import, without a computation."""
    for name in (
        "keras", "matplotlib.figure", "sklearn.datasets", "tensorflow", "flags.shared.training_run",
        "hydra_tf.data.sets", "hydra_tf.evaluation.plots", "hydra_tf.training.long_runs.loop",
    ):  # fmt: skip
        importlib.import_module(name)


def start(binary: str, arguments: Sequence[str], log: str, die_at: int | None = None) -> int:
    """Start a binary in a forked process, and return the number of the process.

    Args:
        binary: its name, such as ``train``.
        arguments: its flags.
        log: file to which its output is written.
        die_at: number of the change of a file, from 0 on, before which it kills itself.
    """
    return _fork(lambda: _run(binary, arguments, die_at), log)


def call(function: Callable[[], Any], log: str) -> None:
    """Call a function in a forked process, which may use TensorFlow, and wait for it.

    Raises:
        RuntimeError: if it fails, with what it wrote.
    """
    if wait(_fork(function, log)):
        with open(log, encoding="utf-8", errors="replace") as file:
            raise RuntimeError(file.read())


def wait(process: int, seconds: float | None = None) -> int:
    """Wait for a process and return its exit status; it is killed after this time, if given.

    Returns:
        The status, or -9 if it was killed.
    """
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, 0 if end is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            os.kill(process, signal.SIGKILL)
            end = None
        time.sleep(0.005)


def _fork(function: Callable[[], Any], log: str) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(output, stream)
        function()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(binary: str, arguments: Sequence[str], die_at: int | None) -> None:
    if die_at is not None:
        sys.addaudithook(_suicide(die_at))
    sys.argv = [binary, *arguments]
    importlib.import_module(f"flags.{binary}").main()


def _suicide(die_at: int) -> Callable[[str, tuple[Any, ...]], None]:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if written or event in CHANGES:
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    return hook


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
