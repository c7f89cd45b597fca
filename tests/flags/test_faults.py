"""Runs that are killed, stopped, or out of disk space can be resumed."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.resume import RECIPE, command, differing, read

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an undisturbed run, ``whole``."""
    path = tmp_path_factory.mktemp("runs")
    subprocess.run(command(path / "whole", 1), check=True, cwd=ROOT, capture_output=True)
    return path


def finish(folder, name):
    """Run the command again until the run is finished; compare the results with ``whole``."""
    result = subprocess.run(
        command(folder / name, 1), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not (folder / name / "checkpoints").exists()
    (folder / name).rename(folder / "killed")
    try:
        assert differing(folder) == []
    finally:
        (folder / "killed").rename(folder / name)


def wait_for_checkpoint(out, process, count=1):
    while len(list((out / "checkpoints").glob("at-*.npz"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def start(folder, name, **kwargs):
    return subprocess.Popen(
        command(folder / name, 1),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


@pytest.mark.slow(seconds=40)
def test_a_killed_run_resumes_to_the_same_bits(folder):
    process = start(folder, "cut")
    wait_for_checkpoint(folder / "cut", process, count=2)
    process.kill()
    process.communicate()
    assert not (folder / "cut" / "report.json").exists()
    finish(folder, "cut")


@pytest.mark.slow(seconds=40)
def test_sigterm_writes_a_checkpoint_and_ends_with_status_75(folder):
    process = start(folder, "sigterm")
    wait_for_checkpoint(folder / "sigterm", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert len(errors.strip().splitlines()) == 1
    assert "the same command resumes from the checkpoint there" in errors
    finish(folder, "sigterm")


@pytest.mark.slow(seconds=30)
def test_full_disk_is_one_error_line_and_the_run_resumes(folder):
    size = max(path.stat().st_size for path in (folder / "whole").glob("*.keras"))

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    result = start(folder, "full", preexec_fn=limit_file_size)
    _, errors = result.communicate(timeout=300)
    assert result.returncode == 2
    *others, message = errors.strip().splitlines()
    assert "checkpoint cannot be written" in message
    # NumPy before 2.2 leaves the archive open, and Python reports that it cannot be closed.
    assert not others or "ZipFile.__del__" in others[0]
    assert not list((folder / "full").glob("**/*unfinished*"))
    finish(folder, "full")


@pytest.mark.slow(seconds=15)
def test_a_dry_run_estimates_a_run_and_writes_nothing(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "flags.train", *RECIPE, f"--out={tmp_path / 'run'}", "--dry_run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for phase in ("pretrain: 100 epochs", "prune: 20 epochs", "finetune: 100 epochs"):
        assert phase in result.stdout
    assert "mnist_cnn: 22,406 parameters" in result.stdout
    assert re.search(r"validation: [\d.e-]+ s an epoch", result.stdout)
    assert re.search(r"report, pgd:steps=5: at most [\d.e-]+ s", result.stdout)
    assert re.search(r"about .+ (s|min) in all; peak memory [\d,]+ MB", result.stdout)
    assert not (tmp_path / "run").exists()


def test_a_config_has_versions_and_a_hash(folder):
    content = json.loads((folder / "whole" / "config.json").read_text())
    assert set(content["versions"]) == {"tensorflow", "keras", "numpy"}
    assert len(content["hash"]) == 12
    assert str(ROOT) not in json.dumps(content)


def test_two_processes_do_not_share_a_directory(folder):
    config = json.loads((folder / "whole" / "config.json").read_text())
    prepare = [
        "from flags.shared import run_directory",
        f"run_directory.prepare({str(folder / 'shared')!r}, {config!r}, overwrite=True)",
    ]
    hold = "\n".join([*prepare, "print('locked', flush=True)", "input()"])
    options = {"cwd": ROOT, "text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    first = subprocess.Popen([sys.executable, "-c", hold], **options)
    assert first.stdout.readline() == "locked\n"
    again = [sys.executable, "-c", "\n".join(prepare)]
    second = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "UsageError: Another process is using" in second.stderr
    first.kill()
    first.communicate()
    # The lock ends with its process.
    third = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr


@pytest.mark.slow(seconds=300)
def test_thirty_kills_do_not_change_the_results(tmp_path):
    # In a process of its own, which forks the runs: this one has computed with TensorFlow.
    out = tmp_path / "kills.jsonl"
    again = [sys.executable, "-m", "benchmarks.resume", f"--out={out}"]
    for kills in (20, 30):  # the second start goes on
        result = subprocess.run(
            [*again, f"--kills={kills}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1].startswith(f"{kills} kills")
    comparisons = read(out)
    assert sum(comparison.kills for comparison in comparisons) == 30
    assert {comparison.binary for comparison in comparisons} == {"train", "certify"}
    assert [comparison.differing for comparison in comparisons] == [[]] * len(comparisons)
