"""Measure TFLite files, in a separate process (see latency.py).

Arguments: an .npy file of one image [1, ...], the number of rounds, the number of threads, and the
TFLite files. The last line of the output is JSON: ``seconds`` [files, rounds] per call,
``first_seconds`` [files] from opening a file to its first outputs, and ``peak_bytes``.
"""

from __future__ import annotations

import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

_BLOCK = 0.002  # seconds of calls between two readings of the clock


def main(source: str, rounds: str, threads: str, *paths: str) -> None:
    """Load the files, then run them in turn."""
    image = np.load(source)
    before = _peak_bytes()
    calls, first = [], []
    for path in paths:
        start = time.perf_counter()
        call = _call(path, image, int(threads))
        call()
        first.append(time.perf_counter() - start)
        calls.append(call)
    peak = _peak_bytes() - before
    counts = [max(1, round(_BLOCK / max(_seconds(call, 5), 1e-9))) for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(int(rounds)):
        for call, count, row in zip(calls, counts, seconds, strict=True):
            row.append(_seconds(call, count))
    result = {"seconds": seconds, "first_seconds": first, "peak_bytes": peak}
    sys.stdout.write(f"\n{json.dumps(result)}\n")


def _call(path: str, image: np.ndarray[Any, Any], threads: int) -> Callable[[], None]:
    """Load a file, and return a function that runs it on the image."""
    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    run: Callable[[], None] = interpreter.invoke
    return run


def _seconds(call: Callable[[], None], count: int) -> float:
    """Return the mean time of some calls."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _peak_bytes() -> int:
    """Return the largest memory that this process had."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage also counts the process that started this one
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(*sys.argv[1:])
