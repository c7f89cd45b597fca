"""Run the benchmarks one after the other and write their tables to BENCHMARKS.md.

    python -m benchmarks [--only=attack_speed,bounds] [--out=BENCHMARKS.md]

Each runs in a process of its own, as `python -m benchmarks.NAME`; run nothing else meanwhile. The
file keeps the sections of benchmarks that this start does not run. Without --only, those that look
for faults, or need networks that were trained before, are left out.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess

from hydra_tf.core.files import replacing
from hydra_tf.core.isolated import isolated_command

FOLDER = pathlib.Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
CHECKS = ("fuzz", "resume", "soundness", "litert_versions", "int8_robustness", "shape_latency")
HEAD = """# Benchmarks

Written by `python -m benchmarks` (`make bench`). Ratios are between times measured in turn
in one run; seconds depend on the machine. [docs/benchmarks.md](docs/benchmarks.md) explains them.
"""


def section(name: str, seconds: int) -> str:
    """Return the section of a benchmark: what it measures, its command, and what it printed."""
    result = subprocess.run(
        isolated_command(f"benchmarks.{name}"),
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if result.returncode:
        raise RuntimeError(f"benchmarks.{name} failed: {result.stderr.strip()[-500:]}")
    summary = str(ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))).splitlines()[0]
    return (
        f"## {name}\n\n{summary}\n\n`python -m benchmarks.{name}`, {environment()}:\n\n"
        f"{result.stdout.strip()}\n"
    )


def environment() -> str:
    """Return date, processor and versions in words."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras")]
    cores = os.cpu_count()
    return f"{datetime.date.today():%d %B %Y}, {platform.machine()}, {cores} cores, " + ", ".join(
        versions
    )


def sections_of(text: str) -> dict[str, str]:
    """Return the sections of a file by their names."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0][3:]: part.rstrip() + "\n" for part in parts}


def main() -> None:
    """Run the benchmarks; the file is written after each, so that an interrupted start counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ",".join(name for name in NAMES if name not in CHECKS)
    parser.add_argument("--only", default=default, help="Names of benchmarks.")
    parser.add_argument("--out", default="BENCHMARKS.md", type=pathlib.Path)
    parser.add_argument("--seconds", default=3600, type=int, help="Most time for one of them.")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := sorted(set(chosen) - set(NAMES)):
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(NAMES)}.")
    known = sections_of(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    for i, name in enumerate(chosen, start=1):
        print(f"{i} of {len(chosen)}: {name}", flush=True)
        known[name] = section(name, arguments.seconds)
        with replacing(arguments.out, ".md") as temporary:
            text = "\n".join([HEAD, *(known[key] for key in sorted(known))])
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
