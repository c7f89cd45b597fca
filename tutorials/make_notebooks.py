"""Run tutorials as notebooks, and write them with their outputs.

    pip install -e ".[notebooks]"
    python tutorials/make_notebooks.py [--out=tutorials/notebooks] [01_first_robust_pruning ...]

The scripts stay the source: jupytext reads their cells, and nbclient runs them. Without names, all
tutorials are made but the last, which runs on a device and takes files as arguments.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from hydra_tf.core.files import replacing

FOLDER = Path(__file__).resolve().parent
ON_A_DEVICE = "10_on_the_device"
# Jupyter has arguments of its own, which a script would take for the reader's.
SET_UP = "import sys\n\nsys.argv = sys.argv[:1]"
# Of what is written to stderr, readers need what this library says. In Jupyter, TensorFlow writes
# to stdout.
WARNING = re.compile(r"WARNING:absl:hydra_tf: .*")
NOISE = re.compile(r"(WARNING|INFO):tensorflow:.*")
# Folders that scripts make for their files have other names in each run.
TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/tmp\w+")


def notebook_of(script: Path) -> nbformat.NotebookNode:
    """Return the cells of a script that is not run yet.

    Args:
        script: a file with cells that start with ``# %%``.

    Raises:
        ValueError: for a script without a docstring or without cells.
    """
    source = script.read_text(encoding="utf-8")
    body = ast.parse(source).body
    if not body or ast.get_docstring(ast.parse(source)) is None or "# %%" not in source:
        raise ValueError(f"{script.name} needs a docstring and cells that start with '# %%'.")
    # The docstring says how to run the script.
    cells = "".join(source.splitlines(keepends=True)[body[0].end_lineno :]).lstrip()
    notebook = jupytext.reads(cells, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"  # not random, so that the same script gives the same file
    return notebook


def run(notebook: nbformat.NotebookNode, root: Path, timeout: int = 1800) -> None:
    """Run the cells in order, and keep what they print.

    Args:
        notebook: cells, which get their outputs.
        root: folder in which they run.
        timeout: seconds that one cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises an error.
    """
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SET_UP, id="set-up"))
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(root)}},
    ).execute()
    del notebook.cells[0]
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [kept for output in cell.outputs for kept in readable(output)]


def readable(output: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return an output without what TensorFlow and Keras write, or nothing if none is left."""
    if output.output_type != "stream":
        return [output]
    lines = output.text.splitlines(keepends=True)
    if output.name == "stderr":
        lines = [line for line in lines if WARNING.match(line)]
    text = "".join(line for line in lines if not NOISE.match(line))
    output.text = TEMPORARY.sub("folder", text)
    return [output] if output.text else []


def main() -> None:
    """Make the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="tutorials without .py; all of them if left out")
    parser.add_argument("--out", type=Path, default=FOLDER / "notebooks", help="folder to write to")
    arguments = parser.parse_args()
    known = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))
    names = arguments.names or [name for name in known if name != ON_A_DEVICE]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no tutorial {unknown[0]}; known are {', '.join(known)}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")])
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        notebook = notebook_of(FOLDER / f"{name}.py")
        run(notebook, FOLDER.parent)
        path = arguments.out / f"{name}.ipynb"
        with replacing(path) as temporary:
            nbformat.write(notebook, temporary)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
