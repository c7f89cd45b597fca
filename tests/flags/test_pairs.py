"""Two processes on one directory: each ends right, or with one sentence."""

import itertools
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flags.shared import run_files
from hydra_tf.evaluation import read_certificates

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--dataset=digits", "--model=mnist_cnn", "--objective=natural", "--prune_epochs=1",
    "--pretrain_epochs=1", "--finetune_epochs=0", "--batch_size=256", "--attacks=fgsm:epsilon=0.1",
    "--verbose=0",
]  # fmt: skip
STUDY = ["study", *SMALL, "--methods=hydra", "--densities=0.1"]
QUICK = ["--n0=10", "--n=50", "--samples=40", "--verbose=0"]


def commands(study):
    """The command line of each binary on the directory of a study, or of its dense network."""
    run = study / "seed0" / "dense"
    return {
        "train": ["train", *SMALL, "--seed=3", "--overwrite", f"--out={run}"],
        "evaluate": ["evaluate", f"--run={run}", "--attacks=fgsm:epsilon=0.2", "--verbose=0"],
        "certify": ["certify", f"--run={run}", *QUICK],
        "export": ["export", f"--run={run}"],
        "study": [*STUDY, f"--out={study}"],
    }


def start(binary, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", f"flags.{binary}", *map(str, flags)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )


def check_whole(run):
    """Check every file of a run directory that is there."""
    run_files.read_config(str(run))
    run_files.read_metrics(str(run))
    for network in run.glob("*.keras"):
        with zipfile.ZipFile(network) as archive:
            assert archive.testzip() is None
    if (run / "report.json").exists():
        run_files.read_report(str(run))
    if (run / "certify.jsonl").exists():
        assert len(read_certificates(run / "certify.jsonl")[1]) == 40
    if (run / "export.json").exists():
        stored = json.loads((run / "export.json").read_text())["bytes"]
        assert stored == (run / "model.tflite").stat().st_size
    for plot in run.glob("plots/*.png"):
        assert plot.read_bytes()[-8:-4] == b"IEND"
    assert not list(run.rglob("*.unfinished*")) and not (run / ".replaced").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished study."""
    out = tmp_path_factory.mktemp("runs") / "study"
    process = start(*STUDY, f"--out={out}")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(
    ("one", "other"),
    itertools.combinations_with_replacement(["train", "evaluate", "certify", "export", "study"], 2),
)
def test_two_processes_on_one_directory(one, other, finished, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(finished, study)
    shutil.rmtree(study / "seed0" / "hydra-0.1")  # a network that the study trains again
    processes = [start(*commands(study)[binary]) for binary in (one, other)]
    ends = []
    for process in processes:
        printed, errors = process.communicate(timeout=600)
        ends.append(process.returncode)
        assert process.returncode in (0, 2), errors
        if process.returncode:
            assert len(errors.strip().splitlines()) == 1, errors
            assert "Traceback" not in errors and printed == ""
    assert 0 in ends
    for run in (study / "seed0").iterdir():
        check_whole(run)
    if "train" not in (one, other):
        writers = {"evaluate", "certify", "export"} & {one, other}
        report = run_files.read_report(str(study / "seed0" / "dense"))
        # Nothing that a process with status 0 has written is lost.
        assert ("vra_s" in report) == ("certify" in writers)
        assert (report["attacks"][0]["epsilon"] == 0.2) == ("evaluate" in writers)
