"""Latency and size of the exported files of pruned networks, beside those of a dense network.

    python -m benchmarks.shape_latency --runs=runs/shapes/seed0/dense,runs/shapes/seed0/hydra-0.1
        [--rounds=201]

The networks are those of run directories or `.keras` files; the first is the dense one. Channels
without weights are removed. In float32, prefer="latency" stores kernels in a sparse form only where
LiteRT computes with it. Runs of all files of one number format alternate on one thread.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from typing import Any

import numpy as np

from ._runs import Run, open_run

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"prefer": "latency"},
    "int8": {"quantization": "int8", "min_agreement": 0.0},
}


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, help="Run directories, the dense one first.")
    parser.add_argument("--rounds", type=int, default=201)
    arguments = parser.parse_args()
    runs = {path: open_run(path) for path in arguments.runs.split(",")}
    print("| network | weights | format | bytes | latency (ms) | speed-up (quartiles) |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory(prefix="hydra_tf-") as folder:
        for name in FORMATS:
            compare(runs, name, arguments.rounds, pathlib.Path(folder))


def compare(runs: dict[str, Run], name: str, rounds: int, folder: pathlib.Path) -> None:
    """Print a row for each network, with its speed-up over the first."""
    from hydra_tf import export

    paths = [folder / f"{i}.tflite" for i in range(len(runs))]
    for run, path in zip(runs.values(), paths, strict=True):
        images = run.validation[0]
        export.to_tflite(run.net, path, compact=True, representative=images, **FORMATS[name])
    image = next(iter(runs.values())).validation[0][0]
    dense, *_ = latencies = export.measure_latency(paths, image, rounds)
    for (source, run), path, latency in zip(runs.items(), paths, latencies, strict=True):
        kept = sum(np.count_nonzero(weight) for weight in run.net.weights if weight.ndim > 1)
        low, middle, high = (
            dense.milliseconds / milliseconds
            for milliseconds in (latency.quartiles[1], latency.milliseconds, latency.quartiles[0])
        )
        print(
            f"| {source} | {kept:,} | {name} | {path.stat().st_size:,} "
            f"| {latency.milliseconds:.4f} | {middle:.2f} ({low:.2f}-{high:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
