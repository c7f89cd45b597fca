"""Notebooks have the cells of the scripts, and what these print."""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason='needs the extra "notebooks"')
pytest.importorskip("nbclient", reason='needs the extra "notebooks"')

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = '''"""Add numbers.

Run it from a checkout:  python tutorials/00.py
"""

# %% [markdown]
# # A sum
#
# Of two numbers.

# %%
import sys
import tempfile

print(len(sys.argv), 1 + 2)
print("WARNING:tensorflow:5 out of the last 5 calls")
print("INFO:tensorflow:Assets written")
print("curve", tempfile.mkdtemp() + "/a.tflite")
print("noise", file=sys.stderr)
print("WARNING:absl:hydra_tf: take care", file=sys.stderr)

# %%
total = 1 + 2
'''


@pytest.fixture(scope="module")
def maker():
    path = ROOT / "tutorials" / "make_notebooks.py"
    spec = importlib.util.spec_from_file_location("make_notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_notebook_has_cells_and_outputs(maker, tmp_path):
    script = tmp_path / "00.py"
    script.write_text(SCRIPT)
    notebook = maker.notebook_of(script)
    maker.run(notebook, tmp_path)
    assert [(cell.id, cell.cell_type) for cell in notebook.cells] == [
        ("cell-0", "markdown"),
        ("cell-1", "code"),
        ("cell-2", "code"),
    ]
    assert notebook.cells[0].source == "# A sum\n\nOf two numbers."
    texts = {output.name: output.text for output in notebook.cells[1].outputs}
    assert texts == {
        "stdout": "1 3\ncurve folder/a.tflite\n",
        "stderr": "WARNING:absl:hydra_tf: take care\n",
    }
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("tutorials/[0-9]*.py")))
def test_every_tutorial_has_cells(maker, name):
    cells = maker.notebook_of(ROOT / "tutorials" / name).cells
    assert cells[0].source.startswith("# ") and len(cells) >= 6


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("tutorials/notebooks/*.ipynb")), ids=lambda path: path.stem
)
def test_notebooks_have_the_cells_of_their_scripts(maker, path):
    assert path.stat().st_size < 300_000
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    expected = maker.notebook_of(ROOT / "tutorials" / f"{path.stem}.py").cells
    assert ["".join(cell["source"]) for cell in cells] == [cell.source for cell in expected]


def test_a_script_without_cells_is_refused(maker, tmp_path):
    (tmp_path / "plain.py").write_text("print(1)\n")
    with pytest.raises(ValueError, match=r"^plain\.py needs a docstring and cells that start"):
        maker.notebook_of(tmp_path / "plain.py")
