"""The seeds of a study in processes of their own, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from hydra_tf.core.isolated import isolated_command


def run_seeds(out: str, seeds: Sequence[int], jobs: int, arguments: Sequence[str]) -> None:
    """Run flags.study once for each seed, with an equal share of the cores for each process.

    Errors and warnings of a process are in ``seedN.log`` of the folder.

    Args:
        out: folder of the study.
        seeds: seeds, each in a process of its own.
        jobs: number of processes at a time.
        arguments: the command line of this study; flags of the seeds are added.

    Raises:
        RuntimeError: when a process fails; the others are stopped, and can be resumed.
    """
    logs = {seed: os.path.join(out, f"seed{seed}.log") for seed in seeds}
    waiting, running = list(seeds), dict[int, "subprocess.Popen[bytes]"]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                seed = waiting.pop(0)
                running[seed] = _start(seed, jobs, arguments, logs[seed])
            time.sleep(0.2)
            for seed in [seed for seed, process in running.items() if process.poll() is not None]:
                _require_success(seed, running.pop(seed).returncode, logs[seed])
                done = len(seeds) - len(waiting) - len(running)
                sys.stdout.write(f"seed {seed} is finished: {done} of {len(seeds)}\n")
                sys.stdout.flush()
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(seed: int, jobs: int, arguments: Sequence[str], log: str) -> subprocess.Popen[bytes]:
    """Start the process of a seed."""
    module = __name__.rsplit(".", 2)[0] + ".study"  # also as hydra_tf.flags.study
    flags = [f"--first_seed={seed}", "--seeds=1", "--jobs=1", "--verbose=0", "--report_samples=0"]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    shares = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), threads)
    with open(log, "wb") as errors:
        return subprocess.Popen(
            isolated_command(module, *arguments, *flags),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**shares, **os.environ},
        )


def _require_success(seed: int, status: int, log: str) -> None:
    """Raise the error of a process that failed."""
    if not status:
        return
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = file.read().strip().splitlines()
    last = lines[-1] if lines else f"it ended with status {status}"
    raise RuntimeError(f"The process of seed {seed} failed: {last}")
