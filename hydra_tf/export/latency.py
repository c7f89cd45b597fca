"""Latency and memory of TFLite files in LiteRT, measured in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.core.isolated import isolated_command

_WORKER = "hydra_tf.export.latency_worker"


@dataclass(frozen=True)
class Latency:
    """How long a TFLite file takes for one image, and how much memory.

    Args:
        milliseconds: median time of an image.
        quartiles: 25th and 75th percentile of these times.
        first_milliseconds: time from opening the file to its first outputs.
        peak_bytes: growth of the largest memory of a process that loads and runs the file.

    Example:
        >>> Latency(0.5, (0.4, 0.6), 3.0, 2_000_000).milliseconds
        0.5
    """

    milliseconds: float
    quartiles: tuple[float, float]
    first_milliseconds: float
    peak_bytes: int


def measure_latency(
    paths: Sequence[str | os.PathLike[str]],
    image: np.ndarray[Any, Any],
    rounds: int = 101,
    threads: int = 1,
) -> list[Latency]:
    """Return the latency of TFLite files, measured in turn so that they share the machine's noise.

    Args:
        paths: TFLite files with one input [1, ...].
        image: [...] float32, the image that they get.
        rounds: number of times that each file is measured; a time is the mean over as many calls as
            take about 2 ms.
        threads: threads of LiteRT.

    Returns:
        One entry per file.

    Raises:
        ValueError: for fewer than one round.
        RuntimeError: when LiteRT cannot load or run a file.

    Example:
        >>> import keras
        >>> from hydra_tf import export
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> path = os.path.join(tempfile.mkdtemp(), "net.tflite")
        >>> _ = export.to_tflite(net, path)
        >>> measure_latency([path], np.zeros([4], "float32"), rounds=3)[0].milliseconds > 0
        True
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}.")
    times = _run(paths, image, rounds, threads)["seconds"]
    alone = [_run([path], image, 1, threads) for path in paths]
    results = []
    for row, single in zip(times, alone, strict=True):
        low, median, high = (float(q) for q in np.percentile(np.array(row) * 1e3, [25, 50, 75]))
        first = float(single["first_seconds"][0]) * 1e3
        results.append(Latency(median, (low, high), first, int(single["peak_bytes"])))
    return results


def _run(
    paths: Sequence[str | os.PathLike[str]],
    image: np.ndarray[Any, Any],
    rounds: int,
    threads: int,
) -> dict[str, Any]:
    """Return what the worker has measured."""
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as folder:
        source = os.path.join(folder, "image.npy")
        np.save(source, np.asarray(image, np.float32)[None])
        arguments = (source, rounds, threads, *(os.path.abspath(path) for path in paths))
        process = subprocess.run(
            isolated_command(_WORKER, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"LiteRT cannot run the TFLite files: {reason}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result
