"""Kill runs repeatedly and check that they end with the same results as undisturbed ones.

    python -m benchmarks.resume [--kills=30] [--seed=0] [--out=runs/resume.jsonl]

``flags.train`` on the digits, and ``flags.certify`` on the network that it has trained, are killed
(SIGKILL) and started again, and then finish. Half of the kills are at random moments, while a run
loads data, trains, writes checkpoints, evaluates or certifies; the other half are right before a
random change of a file: one that is opened for writing, renamed or removed. All files with results
are compared bit by bit: weights, scores, masks, metrics, reports and certificates.

Every comparison is appended to ``--out``. Another start of the command adds kills until there are
`kills` of them, with moments of its own; a different ``--seed`` may run at the same time.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

from benchmarks import _killed
from hydra_tf.core.isolated import isolated_command

RECIPE = [
    "--dataset=digits", "--model=mnist_cnn", "--density=0.05", "--batch_size=100",
    "--objective=trades:epsilon=0.1,steps=2,start=uniform", "--learning_rate=0.05",
    "--attacks=pgd:steps=5", "--ema=0.9", "--verbose=0", "--checkpoint_minutes=0",
]  # fmt: skip
CERTIFY = [
    "--n0=10",
    "--n=2000",
    "--alpha=0.01",
    "--samples=100",
    "--batch_size=256",
    "--verbose=0",
]
KILLS_OF_A_RUN = 10


def arguments(out: pathlib.Path, epochs: int) -> list[str]:
    """Return the flags of a run with `epochs` epochs in each of the three phases."""
    phases = [f"--{name}_epochs={epochs}" for name in ("pretrain", "prune", "finetune")]
    return [*RECIPE, *phases, f"--out={out}"]


def command(out: pathlib.Path, epochs: int) -> list[str]:
    """Return the command of a run with `epochs` epochs in each of the three phases."""
    return isolated_command("flags.train", *arguments(out, epochs))


def results(out: pathlib.Path) -> dict[str, str]:
    """Return all results of a run: hashes of weights, scores and masks, metrics, and reports."""
    import keras

    import hydra_tf  # noqa: F401 - registers the layers

    values: dict[str, str] = {}
    for name in ("model.keras", "dense.keras"):
        for i, variable in enumerate(keras.saving.load_model(out / name).variables):
            data = keras.ops.convert_to_numpy(variable).tobytes()
            values[f"{name} {i} {variable.path}"] = hashlib.sha256(data).hexdigest()
    for name in ("metrics.jsonl", "certify.jsonl"):
        lines = (out / name).read_text().splitlines() if (out / name).exists() else []
        values |= {f"{name} {i}": line for i, line in enumerate(lines)}
    report = json.loads((out / "report.json").read_text())
    return {**values, "report": json.dumps(report, sort_keys=True)}


def differing(folder: pathlib.Path) -> list[str]:
    """Return the names of the results that differ between ``whole`` and ``killed``."""
    return _different(results(folder / "whole"), results(folder / "killed"))


def _different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


@dataclasses.dataclass
class Comparison:
    """One run that was killed and finished, against an undisturbed one.

    Args:
        binary: ``train`` or ``certify``.
        kills: how often it was killed.
        moments: ``time`` or ``change`` for each kill.
        results: number of results.
        differing: names of the results that differ, or how it failed.
    """

    binary: str
    kills: int
    moments: list[str]
    results: int
    differing: list[str]


class Killer:
    """Kills runs in a folder at moments drawn from a seed.

    Args:
        folder: an empty folder.
        epochs: epochs of each phase.
        seed: seed of the moments.
    """

    def __init__(self, folder: pathlib.Path, epochs: int, seed: int | str) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._killed, self._log = folder / "killed", str(folder / "log")
        self._flags = {
            "train": lambda out: arguments(out, epochs),
            "certify": lambda out: [f"--run={out}", *CERTIFY],
        }
        self._seconds: dict[str, float] = {}
        self._whole: dict[str, dict[str, str]] = {}
        for binary in self._flags:
            started = time.monotonic()
            out = folder / "whole"
            status = _killed.wait(_killed.start(binary, self._flags[binary](out), self._log))
            if status:
                raise RuntimeError(pathlib.Path(self._log).read_text())
            self._seconds[binary] = time.monotonic() - started
            self._whole[binary] = self._results(out)
            if binary == "train":
                shutil.copytree(out, folder / "trained")

    def compare(self, binary: str, kills: int) -> Comparison:
        """Kill a run so many times, let it finish, and compare its results.

        Args:
            binary: ``train`` or ``certify``.
            kills: largest number of kills; fewer if the run finishes before.
        """
        shutil.rmtree(self._killed, ignore_errors=True)
        if binary == "certify":
            shutil.copytree(self._folder / "trained", self._killed)
        flags, moments, status = self._flags[binary](self._killed), [], 0
        while len(moments) < kills:
            moment = self._random.choice(["time", "change"])
            limit = self._random.uniform(0, 1.1 * self._seconds[binary])
            change = int(self._random.expovariate(1 / 30)) if moment == "change" else None
            process = _killed.start(binary, flags, self._log, change)
            status = _killed.wait(process, limit if moment == "time" else None)
            if status == -9:
                moments.append(moment)
            else:  # it has finished, or failed
                break
        if status in (0, -9):
            status = _killed.wait(_killed.start(binary, flags, self._log))
        if status:
            text = pathlib.Path(self._log).read_text(errors="replace").strip()
            return Comparison(binary, len(moments), moments, 0, [f"status {status}: {text}"])
        found = self._results(self._killed)
        different = _different(self._whole[binary], found)
        return Comparison(binary, len(moments), moments, len(found), different)

    def _results(self, out: pathlib.Path) -> dict[str, str]:
        target = self._folder / "results.json"
        _killed.call(lambda: target.write_text(json.dumps(results(out))), self._log)
        loaded: dict[str, str] = json.loads(target.read_text())
        return loaded


def kill_and_resume(kills: int, epochs: int, seed: int, out: pathlib.Path) -> list[Comparison]:
    """Compare killed runs with undisturbed ones until there were so many kills.

    Args:
        kills: number of kills, those recorded in `out` included.
        epochs: epochs of each phase.
        seed: seed of the moments of the kills.
        out: file of comparisons, to which those of this call are added.

    Returns:
        All comparisons in the file.
    """
    _killed.preload()
    done = read(out)
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(pathlib.Path(folder), epochs, f"{seed} {len(done)}")
        while (missing := kills - sum(comparison.kills for comparison in done)) > 0:
            binary = "certify" if len(done) % 3 == 2 else "train"
            comparison = killer.compare(binary, min(missing, KILLS_OF_A_RUN))
            with out.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(comparison)) + "\n")
            done = read(out)
            sys.stdout.write(f"{summary(done)}\n")
            sys.stdout.flush()
    return done


def read(out: pathlib.Path) -> list[Comparison]:
    """Return the comparisons in a file, none if it does not exist."""
    lines = out.read_text().splitlines() if out.exists() else []
    return [Comparison(**json.loads(line)) for line in lines]


def summary(done: list[Comparison]) -> str:
    """Return one line about all comparisons."""
    moments = [moment for comparison in done for moment in comparison.moments]
    differ = [name for comparison in done for name in comparison.differing]
    kills = {
        binary: sum(comparison.kills for comparison in done if comparison.binary == binary)
        for binary in ("train", "certify")
    }
    return (
        f"{len(moments)} kills ({kills['train']} of training, {kills['certify']} of certification, "
        f"{moments.count('change')} at changes of files), {len(done)} comparisons, "
        f"{sum(comparison.results for comparison in done)} results compared, {len(differ)} differ"
    )


def main() -> None:
    """Parse the arguments and print the number of differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/resume.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = kill_and_resume(options.kills, options.epochs, options.seed, options.out)
    sys.stdout.write(f"{summary(done)}\n")
    sys.exit(any(comparison.differing for comparison in done))


if __name__ == "__main__":
    main()
