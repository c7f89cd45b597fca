"""Files that someone else made: a result or one sentence, whatever is in them."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import fuzz

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("kind", fuzz.SHARES)
@pytest.mark.slow(seconds=120)
def test_changed_inputs_give_a_result_or_one_sentence(kind):
    summary = fuzz.summarise(fuzz.fuzz(kind, seed=1, first=0, count=4 * fuzz.SHARES[kind]), seed=1)
    assert summary["faults"] == []
    assert summary["inputs"] == 4 * fuzz.SHARES[kind]


BAD_READER = """
import os, subprocess, sys
sys.path.insert(0, {root!r})
from benchmarks import _fuzz_files, _fuzz_worker
import pathlib

def bad(folder):
    acts = [
        lambda: "result",
        lambda: _fuzz_files.outcome(lambda: 1 / 0, bool),
        lambda: _fuzz_files.outcome(lambda: int("x" * 9), bool),
        lambda: _fuzz_files.outcome(lambda: 0, bool),
        lambda: open(folder / "../outside", "w").close() or "result",
        lambda: subprocess.run(["true"]) and "result",
        lambda: bytes(bytearray(b"x") * (3 << 30)) and "result",
        lambda: os.abort(),
    ]
    numbers = iter(range(-1, 99))
    return lambda draw: acts[max(0, next(numbers))]()

_fuzz_files.TARGETS["bad"] = bad
_fuzz_worker.main("bad", 0, 0, 8, pathlib.Path({folder!r}))
"""


@pytest.mark.slow(seconds=30)
def test_faults_are_noticed(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    code = BAD_READER.format(root=str(ROOT), folder=str(folder))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == -6
    outcomes = [json.loads(line)[1] for line in result.stdout.splitlines()]
    expected = [
        "result", "ZeroDivisionError", "AssertionError: says \"invalid literal",
        "AssertionError: a wrong result", f"did open {tmp_path}/outside", "did subprocess.Popen",
        "takes ",
    ]  # fmt: skip
    assert len(outcomes) == len(expected)
    for found, start in zip(outcomes, expected, strict=True):
        assert found.startswith(start)
