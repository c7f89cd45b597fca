"""Changed command lines, configs and reports, given to the binaries up to where they would work.

Each case runs in a fork of a process that has loaded the binary, as loading takes longest.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import random
import resource
import signal
import sys
import zipfile
from typing import Any

from benchmarks._fuzz_files import Attempt
from benchmarks._fuzz_mutations import NUMBERS, mutate_bytes, mutate_json, mutate_text

BINARIES = ("train", "study", "evaluate", "certify", "export")
_MEMORY = 2 << 30  # bytes of address space of a case
_SECONDS = 20
# Valid values of the flags that have no default to start from.
_VALUES = {
    "pretrained": "runs/a", "extra": "npz:path=tiny.npz,share=0.5", "clip_norm": "1.0",
    "ema": "0.9",
    "attacks": "pgd:steps=100,restarts=10;autoattack", "quantization": "int8",
    "distances": "fmn:norm=l2,steps=100,search=true",
    "objective": "trades:epsilon=8/255,steps=10,beta=6", "model": "wide_resnet:depth=28,width=4",
    "dataset": "npz:path=tiny.npz", "method": "hydra:score_init=magnitude", "flagfile": "a.flags",
}  # fmt: skip
# Flags of absl that do something else than the binary, and the directory to write.
_LEFT_OUT = {"help", "helpshort", "helpfull", "helpxml", "out", "run"}


def command_lines(folder: pathlib.Path, binary: str) -> Attempt:
    """Return the attempt on one binary, with a run directory in a folder."""
    sys.argv = [binary]
    module = importlib.import_module(f"flags.{binary}")
    from flags.shared import launcher

    # Where the flags are accepted, TensorFlow would be loaded and the work begun.
    launcher._load_tensorflow = lambda _: os._exit(0)
    run = folder / "run"
    run.mkdir()
    config = {"dataset": "digits", "objective": "trades", "attacks": "pgd", "batch_size": 8}
    config |= {"seed": 0, "split": "test", "density": 0.1, "model": "mnist_cnn", "epochs": [1, 2]}
    config |= {"extra": "npz:path=tiny.npz,share=0.5", "pretrained": "runs/a", "certify_n": 1000}
    config |= {"dtype_policy": "float32", "versions": {"tensorflow": "2.21.0"}}
    report = {"benign_accuracy": 0.5, "era": 0.4, "density": 0.1, "layers": [], "attacks": []}
    report |= {"vra_s": 0.3, "verified": {"crown_ibp": {"accuracy": 0.2}}, "split": "test"}
    with zipfile.ZipFile(run / "model.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    flags = [
        flag
        for name, entries in launcher.FLAGS.flags_by_module_dict().items()
        if name.startswith("flags.") or name.endswith(f"{binary}.py") or name == binary
        for flag in entries
        if flag.name not in _LEFT_OUT
    ]
    assert len(flags) > 1

    def attempt(draw: random.Random) -> str:
        arguments = [f"--out={folder / 'out'}" if binary in BINARIES[:2] else f"--run={run}"]
        contents = {"config.json": config, "report.json": report}
        for name, content in contents.items():
            (run / name).write_text(json.dumps(content))
        if binary not in BINARIES[:2] and draw.random() < 0.5:
            name = draw.choice(list(contents))
            text = json.dumps(mutate_json(contents[name], draw)).encode()
            (run / name).write_bytes(mutate_bytes(text, draw) if draw.random() < 0.3 else text)
        else:
            for flag in draw.sample(flags, min(len(flags), draw.randint(1, 3))):
                value = _VALUES.get(flag.name, flag.default_as_str or "1").strip("'")
                number = draw.random() < 0.4
                value = str(draw.choice(NUMBERS)) if number else mutate_text(value, draw)
                arguments.append(f"--{flag.name}={value}")
        return _judge(*_run(module, [binary, *arguments]))

    return attempt


def _run(module: Any, arguments: list[str]) -> tuple[int, str]:
    """Return the exit status of a binary in a fork, and what it wrote to the error stream."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(writer, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.alarm(_SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        sys.argv = arguments
        code: Any = 99
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
    with os.fdopen(reader, errors="replace") as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def _judge(status: int, text: str) -> str:
    """Return what a binary did; raise if it did neither begin to work nor refuse in one line."""
    if status == 0:
        return "result"
    lines = text.strip().splitlines()
    assert status == 2 and len(lines) == 1 and "Traceback" not in text, (
        f"ends with status {status} and says {text[-600:]!r}"
    )
    return "refused"
