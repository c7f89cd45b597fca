"""Files that a command line must not replace, checked before TensorFlow loads."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Each command line runs in a fork of one process, as importing the library takes longest.
DRIVER = """
import importlib, io, json, os, sys
import hydra_tf
for binary, *arguments in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        sys.argv = [binary, *arguments]
        try:
            importlib.import_module(f"flags.{binary}").main()
        except SystemExit as end:
            os._exit(end.code if "tensorflow" not in sys.modules else 99)
        os._exit(98)
    os.close(writer)
    with os.fdopen(reader) as text:
        printed = text.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed]))
"""


def outcomes(*commands):
    """Return status and error of command lines."""
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_that_are_not_ours_or_still_needed_are_kept(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = {"dataset": "digits", "objective": "trades", "attacks": "pgd", "split": "test"}
    (run / "config.json").write_text(json.dumps({**config, "batch_size": 8, "seed": 0}))
    (run / "report.json").write_text("{}")
    with zipfile.ZipFile(run / "model.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    (tmp_path / "notes.tflite").write_text("mine")
    (tmp_path / "judged").mkdir()
    for path in run.iterdir():
        (tmp_path / "judged" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "judged" / "checkpoints").mkdir()
    (tmp_path / "judged" / "checkpoints" / "at-00001-000000001.npz").touch()
    (tmp_path / "judged" / "report.json").unlink()
    before = content(tmp_path)
    short = ["--pretrain_epochs=0", "--finetune_epochs=0"]
    overwrite = ["train", f"--out={run}", "--overwrite", *short]
    cases = {
        "model.keras, from which --pretrained starts; choose another --out": [
            [*overwrite, f"--pretrained={run}"],
            [*overwrite, f"--pretrained={os.path.relpath(run, ROOT)}/model.keras"],
        ],
        "notes.tflite is not a TFLite file; it is kept": [
            ["export", f"--run={run}", f"--out={tmp_path / 'notes.tflite'}"]
        ],
        "holds a run of flags.train; choose another --out": [["study", f"--out={run}"]],
        "is not finished; run its flags.train or flags.study command again": [
            ["evaluate", f"--run={tmp_path / 'judged'}", "--attacks=fgsm"]
        ],
        "--seed must be below 2^63": [
            ["train", f"--out={tmp_path / 'new'}", f"--seed={2**63}"],
            ["evaluate", f"--run={run}", f"--seed={2**63}"],
        ],
        "n=9 draws cannot certify with alpha=0.001": [
            ["study", f"--out={tmp_path / 'new'}", "--objective=smoothing", "--certify_n=9"]
        ],
        "give 2 networks the folder 'lwm-0.1'; list each of them once": [
            ["study", f"--out={tmp_path / 'new'}", "--methods=lwm,lwm", "--densities=0.1"],
            ["study", f"--out={tmp_path / 'new'}", "--methods=lwm", "--densities=0.1,0.10"],
        ],
        "--dense_epochs must be total or a number of at least 1, not 'all'": [
            ["study", f"--out={tmp_path / 'new'}", "--dense_epochs=all"]
        ],
        'Unknown allocation "erc"; did you mean "erk"?': [
            ["study", f"--out={tmp_path / 'new'}", "--allocations=uniform,erc"]
        ],
        'Unknown granularity "elements"': [
            ["train", f"--out={tmp_path / 'new'}", "--granularity=elements"]
        ],
        "--judge_samples has no effect without --judge; add --judge": [
            ["export", f"--run={run}", "--judge_samples=10"],
            ["study", f"--out={tmp_path / 'new'}", "--judge_samples=10"],
        ],
        "--judge_quantizations has no effect without --judge": [
            ["study", f"--out={tmp_path / 'new'}", "--judge_quantizations=int8"]
        ],
        "must list formats of none, float16, int8, int8_float_logits, not 'none,int4'": [
            ["study", f"--out={tmp_path / 'new'}", "--judge", "--judge_quantizations=none,int4"]
        ],
        "--judge_search=pgd follows gradients": [
            ["export", f"--run={run}", "--judge", "--judge_search=pgd"]
        ],
        "--prefer=latency has no effect with --quantization=int8": [
            ["export", f"--run={run}", "--prefer=latency", "--quantization=int8"]
        ],
        "--prefer=latency has no effect with --nosparse": [
            ["export", f"--run={run}", "--prefer=latency", "--nosparse"]
        ],
        "--budget_bytes must be a positive number, not 0": [
            ["export", f"--run={run}", "--budget_bytes=0"]
        ],
        "--budget_ms must be a positive number, not nan": [
            ["export", f"--run={run}", "--budget_ms=nan"]
        ],
        'did you mean "autoattack"?': [
            ["study", f"--out={tmp_path / 'new'}", "--further_attacks=pgd;autoatack"]
        ],
        "--attack_samples must be at least 0, not -1": [
            ["study", f"--out={tmp_path / 'new'}", "--attack_samples=-1"]
        ],
    }
    expected = [message for message, commands in cases.items() for _ in commands]
    seen = outcomes(*[command for commands in cases.values() for command in commands])
    for message, (status, printed) in zip(expected, seen, strict=True):
        assert (status, message in printed) == (2, True), (message, printed)
        assert len(printed.strip().splitlines()) == 1
    assert content(tmp_path) == before
    assert not (tmp_path / "new").exists()
