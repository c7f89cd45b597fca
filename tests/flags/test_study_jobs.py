"""Seeds of a study in processes of their own."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from flags.shared import study_jobs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def processes(monkeypatch):
    """The commands that were started; each runs a line of Python instead."""
    started = []
    code = {0: "pass", 1: "pass", 7: "import sys; sys.exit('study: the sentence')"}

    def command(module, *arguments):
        started.append((module, *arguments))
        (seed,) = (int(a.split("=")[1]) for a in arguments if a.startswith("--first_seed="))
        return [sys.executable, "-c", code[seed]]

    monkeypatch.setattr(study_jobs, "isolated_command", command)
    return started


def test_each_seed_has_a_process_with_the_flags_of_the_study(processes, tmp_path, capsys):
    study_jobs.run_seeds(str(tmp_path), [0, 1], 2, ["--seeds=2", "--jobs=2"])
    assert [command[0] for command in processes] == ["flags.study"] * 2
    # Of a flag that is given twice, the last one counts.
    assert processes[1][1:] == (
        "--seeds=2", "--jobs=2", "--first_seed=1", "--seeds=1", "--jobs=1", "--verbose=0",
        "--report_samples=0",
    )  # fmt: skip
    assert "2 of 2" in capsys.readouterr().out


def test_the_sentence_of_a_failed_process_is_shown(processes, tmp_path):
    with pytest.raises(RuntimeError, match="The process of seed 7 failed: study: the sentence"):
        study_jobs.run_seeds(str(tmp_path), [7, 0], 1, [])
    assert len(processes) == 1  # the next one does not start
    assert "the sentence" in (tmp_path / "seed7.log").read_text()


@pytest.mark.slow(seconds=120)
def test_a_study_with_jobs_has_the_networks_of_all_seeds(tmp_path):
    command = [
        sys.executable, "-m", "flags.study", "--dataset=digits", "--model=mnist_cnn",
        "--objective=trades:epsilon=0.1,steps=2,start=uniform", "--pretrain_epochs=2",
        "--prune_epochs=1", "--finetune_epochs=1", "--batch_size=256", "--attacks=pgd:steps=2",
        "--methods=lwm", "--densities=0.1", "--seeds=2", "--report_samples=32",
        f"--out={tmp_path / 'study'}",
    ]  # fmt: skip
    result = subprocess.run([*command, "--jobs=2"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "seed 0 is finished" in result.stdout and "seed 1 is finished" in result.stdout
    with open(tmp_path / "study" / "cells.csv", newline="") as file:
        rows = [(row["method"], row["seed"]) for row in csv.DictReader(file)]
    assert rows == [("dense", "0"), ("lwm", "0"), ("dense", "1"), ("lwm", "1")]
    page = (tmp_path / "study" / "report.html").read_text("utf-8")
    assert page.count("plotly-graph-div") >= 5
    assert "Nothing to show: no pruned network" not in page
    # The same command keeps the networks, with or without processes of their own.
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "epoch" not in again.stdout.lower()
