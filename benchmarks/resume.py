"""Kill a run repeatedly and check that it ends with the same bits as an undisturbed run.

    python -m benchmarks.resume [--kills=30] [--seed=0]

The same ``flags.train`` command on the digits is run twice. The second run is killed (SIGKILL)
at random moments, while it loads data, trains, writes checkpoints or evaluates, and restarted,
`kills` times; then it finishes. All files with results are compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

RECIPE = [
    "--dataset=digits", "--model=mnist_cnn", "--density=0.05", "--batch_size=100",
    "--objective=trades:epsilon=0.1,steps=2,start=uniform", "--learning_rate=0.05",
    "--attacks=pgd:steps=5", "--ema=0.9", "--verbose=0", "--checkpoint_minutes=0",
]  # fmt: skip


def command(out: pathlib.Path, epochs: int) -> list[str]:
    """Return the command of a run with `epochs` epochs in each of the three phases."""
    phases = [f"--{name}_epochs={epochs}" for name in ("pretrain", "prune", "finetune")]
    return [sys.executable, "-m", "flags.train", *RECIPE, *phases, f"--out={out}"]


def results(out: pathlib.Path) -> dict[str, object]:
    """Return all results of a run: weights, scores, masks, metrics and report."""
    import keras

    import hydra_tf  # noqa: F401 - registers the layers

    values: dict[str, object] = {}
    for name in ("model.keras", "dense.keras"):
        for i, variable in enumerate(keras.saving.load_model(out / name).variables):
            values[f"{name} {i} {variable.path}"] = keras.ops.convert_to_numpy(variable).tobytes()
    for i, line in enumerate((out / "metrics.jsonl").read_text().splitlines()):
        values[f"metrics {i}"] = line
    report = json.loads((out / "report.json").read_text())
    return {**values, "report": json.dumps(report, sort_keys=True)}


def kill_and_resume(folder: pathlib.Path, kills: int, epochs: int, seed: int) -> list[str]:
    """Return the names of the results that differ; none should.

    Args:
        folder: an empty folder for the runs.
        kills: number of kills.
        epochs: epochs of each phase.
        seed: seed of the moments of the kills.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = time.monotonic()
    subprocess.run(command(folder / "whole", epochs), check=True, **quiet)
    length = time.monotonic() - started
    generator = random.Random(seed)
    killed = 0
    while killed < kills:
        process = subprocess.Popen(command(folder / "killed", epochs), **quiet)
        try:
            process.wait(generator.uniform(0.0, 1.1 * length))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        else:
            # The run finished; the remaining kills hit a new one.
            if process.returncode:
                return [f"a run that was started again ended with status {process.returncode}"]
            if differing(folder):
                break
            shutil.rmtree(folder / "killed")
    subprocess.run(command(folder / "killed", epochs), check=True, **quiet)
    return differing(folder)


def differing(folder: pathlib.Path) -> list[str]:
    """Return the names of the results that differ between the two runs."""
    one, other = results(folder / "whole"), results(folder / "killed")
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def main() -> None:
    """Parse the arguments and print the number of differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        differences = kill_and_resume(
            pathlib.Path(folder), arguments.kills, arguments.epochs, arguments.seed
        )
        count = len(results(pathlib.Path(folder) / "whole"))
    print(f"{arguments.kills} kills, {count} results compared, {len(differences)} differ")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
