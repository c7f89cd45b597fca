"""The commands of the pages and the recipes have flags that exist, with values they accept."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("flags/recipes/*")])
BINARIES = ["certify", "evaluate", "export", "study", "submission", "train"]
PARSE = """
import importlib, json, sys
from absl import flags
importlib.import_module("flags." + sys.argv[1])
refused = []
for command in json.load(sys.stdin):
    try:
        rest = flags.FLAGS(["x", *command])[1:]
        refused += [[command, "unexpected " + rest[0]]] if rest else []
    except flags.Error as error:
        refused.append([command, str(error)])
print(json.dumps(refused))
"""


def commands(text, binary):
    """Return the arguments of each command of a binary in a page; "..." and "$s" are left out.

    A command may stand in a block of code, with its lines joined by a backslash, or in a line of
    code within the text, which may be broken anywhere.
    """
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    codes = [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]
    lines += [code for code in codes if "python -m" in code]
    found = []
    for line in lines:
        match = re.search(rf"(?:python -m flags\.|hydra-){binary}\b([^|>&]*)", line)
        if match:
            words = shlex.split(match[1], comments=True)
            found.append([w for w in words if w != "..." and "$" not in w])
    return found


def test_commands_are_found():
    text = "`python -m flags.train --a=1\n--b` and\n"
    text += "```sh\nhydra-train --c \\\n  --d='x y' ... # e\n```\n"
    assert commands(text, "train") == [["--c", "--d=x y"], ["--a=1", "--b"]]
    assert commands(text, "study") == []


@pytest.mark.parametrize("binary", BINARIES)
def test_a_binary_accepts_the_flags_of_all_its_commands(binary):
    given = [c for path in TEXTS for c in commands(path.read_text("utf-8"), binary)]
    assert [command for command in given if command]
    result = subprocess.run(
        [sys.executable, "-c", PARSE, binary],
        input=json.dumps(given), capture_output=True, text=True, cwd=ROOT, timeout=200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout) == []
