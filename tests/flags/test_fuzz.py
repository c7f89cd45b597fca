"""Two hundred broken command lines and config files: status 2, one line, no traceback."""

import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each case runs in a fork of a process that has loaded the binary, as loading takes longest.
DRIVER = """
import importlib, io, json, os, sys
binary, cases = sys.argv[1], json.loads(sys.stdin.read())
module = importlib.import_module(f"flags.{binary}")
outcomes = []
for case in cases:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(writer, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = [binary, *case]
        code = 99
        try:
            module.main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 98)
    os.close(writer)
    with os.fdopen(reader) as text:
        printed = text.read()
    outcomes.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed))
print(json.dumps(outcomes))
"""

WORDS = [
    "", " ", "0", "-1", "1e999", "nan", "inf", "-inf", "none", "true", "[]", "{}", "{", "'", '"',
    "\\", "%s", "{0}", "é√", "../..", "a" * 3000, "1,2", "=", ":", ";", "trades:",
    "trades:epsilon", "trades:epsilon=", "trades:=3", "trades:epsilon=1/0", "trades:beta=6,,",
    "pgd:steps=1.5", "pgd:norm=l7", "crown_ibp:ramp=2", "smoothing:sigma=0", "__import__('os')",
    "mixtrain:samples=0", "free:replays=0", "natural:epsilon=1", "pgd:epsilon=-8/255",
]  # fmt: skip
FLAGS = {
    "train": [
        "density", "method", "objective", "model", "dataset", "strategy", "batch_size", "seed",
        "pretrain_epochs", "optimizer", "schedule", "warmup", "allocation", "learning_rate",
        "microbatches", "dtype_policy", "clip_norm", "ema", "extra", "pretrained", "flagfile",
        "density_schedule", "density_schedule_phase", "score_perturbation",
    ],
    "study": [
        "methods", "densities", "seeds", "split", "certify_n", "objective", "model", "allocations",
        "first_seed", "dense_epochs", "further_attacks", "attack_samples", "granularity",
        "judge_quantizations",
    ],
    "evaluate": ["run", "attacks", "distances", "seed"],
    "certify": ["run", "method", "sigma", "n0", "n", "alpha", "samples", "split", "batch_size"],
    "export": ["run", "quantization", "budget_bytes", "budget_ms"],
}  # fmt: skip
# Words that are valid for a flag.
VALID = {
    "seed": {"0"}, "warmup": {"0"}, "pretrained": {""}, "extra": {""}, "certify_n": {"0"},
    "attacks": {"", " ", ";", "trades:"}, "flagfile": {"", " "}, "samples": {"0"},
    "pretrain_epochs": {"0"}, "objective": {"trades:", "trades:beta=6,,"}, "methods": {""},
    "densities": {""}, "quantization": {"none"}, "allocations": {""}, "first_seed": {"0"},
    "further_attacks": {"", " ", ";"}, "attack_samples": {"0"}, "score_perturbation": {"0"},
}  # fmt: skip


def cases_for(binary, count, folder):
    """Return command lines with one wrong value each, for a run directory that looks complete."""
    run = folder / "run"
    run.mkdir()
    valid = {"dataset": "digits", "objective": "trades", "attacks": "pgd", "split": "test"}
    (run / "config.json").write_text(json.dumps({**valid, "batch_size": 8, "seed": 0}))
    (run / "report.json").write_text("{}")
    with zipfile.ZipFile(run / "model.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    before = f"--out={folder / 'out'}" if binary in ("train", "study") else f"--run={run}"
    cases = [
        [before, f"--{flag}={word}"]
        for flag in FLAGS[binary]
        for word in WORDS
        if word not in VALID.get(flag, ())
    ]
    random.Random(binary).shuffle(cases)
    return cases[:count]


def config_cases(folder):
    """Return flags for run directories with broken configs."""
    valid = {
        "dataset": "digits",
        "objective": "trades",
        "attacks": "pgd",
        "split": "test",
        "batch_size": 8,
        "seed": 0,
    }
    contents = ["", "{", "[1]", "null", "3", '"text"', "\ufeff{}", "{}", '{"dataset": "digits"}']
    for key in valid:
        for value in (
            None,
            [],
            {},
            "no such thing",
            -1,
            1.5,
            1e30,
            10**30,
            True,
            "trades:epsilon=-1",
        ):
            contents.append(json.dumps({**valid, key: value}))
        contents.append(json.dumps({k: v for k, v in valid.items() if k != key}))
    contents.append('{"dataset": ' + "[" * 100_000)
    paths = []
    for i, content in enumerate(contents):
        path = folder / f"run{i}"
        path.mkdir()
        (path / "config.json").write_text(content, encoding="utf-8")
        paths.append([f"--run={path}"])
    binary = folder / "binary"
    binary.mkdir()
    (binary / "config.json").write_bytes(bytes(range(256)))
    return [*paths, [f"--run={binary}"]]


def refuse_all(binary, cases):
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, binary],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout)
    assert len(outcomes) == len(cases)
    wrong = [
        (case, status, printed[-600:])
        for case, (status, printed) in zip(cases, outcomes, strict=True)
        if status != 2 or len(printed.strip().splitlines()) != 1 or "Traceback" in printed
    ]
    assert not wrong, "\n".join(map(str, wrong[:10]))


@pytest.mark.parametrize(
    ("binary", "count"),
    [("train", 90), ("study", 60), ("evaluate", 20), ("certify", 40), ("export", 15)],
)
def test_broken_command_lines_print_one_line(binary, count, tmp_path):
    refuse_all(binary, cases_for(binary, count, tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("binary", ["evaluate", "certify", "export"])
def test_broken_configs_print_one_line(binary, tmp_path):
    refuse_all(binary, config_cases(tmp_path))


def test_broken_clusters_print_one_line(tmp_path):
    for text in ("", "{", "[]", "{}", '{"cluster": 3}', '{"cluster": {"worker": ["a:1"]}}',
                 '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 4}}',
                 '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}'):  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-m", "flags.train", "--strategy=multi_worker", f"--out={tmp_path}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": text},
        )
        assert result.returncode == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert "TF_CONFIG" in result.stderr
