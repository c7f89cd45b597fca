"""Random changes of files, configs and command lines: each must give a result or one sentence.

    python -m benchmarks.fuzz [--inputs=300] [--seed=0] [--kinds=npz,keras] [--results=fuzz.jsonl]

Inputs of every kind are made from intact ones: bytes are flipped, members of archives and entries
of JSON are replaced, files are cut. A reader may return a result or raise an error in one
sentence. A traceback, a crash, more than a minute or 1 GB, a file changed outside the folder, a
started process, an opened connection, and changed weights or images that a checksum should have
revealed are faults. With --results, each start adds a line to a file, and the total over all lines
is printed. A fault is repeated with its kind, seed and number: --kinds=npz --seed=3 --only=17.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
from typing import Any

from hydra_tf.core.isolated import isolated_command

# Shares of the inputs, by what one costs.
SHARES = {
    "specs": 25, "certificates": 20, "checkpoints": 16, "npz": 6, "images": 2, "keras": 5,
    "train": 9, "study": 4, "evaluate": 4, "certify": 5, "export": 4,
}  # fmt: skip
if importlib.util.find_spec("torch"):  # an extra
    SHARES["torch"] = 6
WORKER = "benchmarks._fuzz_worker"
_STALLED = 120  # seconds without an outcome, also while a worker starts

Outcome = tuple[str, int, str]


def fuzz(kind: str, seed: int, first: int, count: int) -> list[Outcome]:
    """Return (kind, number, outcome) of inputs of one kind.

    A worker that dies or hangs is a fault of the input it was working on; another one continues.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        at = first + len(outcomes)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            arguments = (kind, seed, at, first + count - at, folder)
            found, end = _watch_worker(isolated_command(WORKER, *arguments, packages=["flags"]))
        outcomes += [(kind, number, outcome) for number, outcome in found]
        if len(outcomes) < count:
            if not found and at == first:
                sys.exit(f"The worker for {kind} cannot start: {end}")
            outcomes.append((kind, at + len(found), end))
    return outcomes


def _watch_worker(command: list[str]) -> tuple[list[tuple[int, str]], str]:
    """Run a worker; return the outcomes that it printed, and how it ended."""
    found, pending = [], b""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        end = "hangs"
        while select.select([process.stdout], [], [], _STALLED)[0]:
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                end = f"ends with status {process.wait()}"
                break
            *lines, pending = (pending + chunk).split(b"\n")
            found += [tuple(json.loads(line)) for line in lines]
        process.kill()
        process.wait()
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    return found, f"{end}: {text[-800:]}"


def summarise(outcomes: list[Outcome], seed: int) -> dict[str, Any]:
    """Return the numbers of inputs, results and refusals, and the faults, as JSON values."""
    counts = collections.Counter(
        (kind, outcome if outcome in ("result", "refused") else "fault")
        for kind, _, outcome in outcomes
    )
    kinds: dict[str, dict[str, int]] = {}
    for (kind, name), number in sorted(counts.items()):
        kinds.setdefault(kind, {})[name] = number
    faults = [entry for entry in outcomes if entry[2] not in ("result", "refused")]
    return {"seed": seed, "inputs": len(outcomes), "kinds": kinds, "faults": faults}


def main() -> None:
    """Parse the arguments, try the inputs, and print a summary; the status is 1 with faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(SHARES))
    parser.add_argument("--only", type=int, help="number of one input")
    parser.add_argument("--results", type=pathlib.Path, help="file to which a line is added")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    whole = sum(SHARES[kind] for kind in kinds)
    outcomes = []
    for kind in kinds:
        first, count = 0, -(-arguments.inputs * SHARES[kind] // whole)
        if arguments.only is not None:
            first, count = arguments.only, 1
        outcomes += fuzz(kind, arguments.seed, first, count)
    summary = summarise(outcomes, arguments.seed)
    for kind, counts in summary["kinds"].items():
        print(f"{kind:13}", ", ".join(f"{number} {name}" for name, number in counts.items()))
    for kind, number, outcome in summary["faults"][:50]:
        print(f"{kind} {number}: {outcome}")
    total = [summary]
    if arguments.results:
        with open(arguments.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(summary) + "\n")
        total = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    inputs, faults = (sum(s["inputs"] for s in total), sum(len(s["faults"]) for s in total))
    print(f"{inputs} inputs, {faults} faults")
    sys.exit(bool(summary["faults"]))


if __name__ == "__main__":
    main()
