"""Child processes execute nothing from the current folder."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.core import isolated
from hydra_tf.core.isolated import isolated_command
from hydra_tf.export import litert, to_tflite

ROOT = pathlib.Path(hydra_tf.__file__).parents[1]


def imported_names():
    """Return the names of all packages that this process has, or Python or hydra_tf could import.

    The modules of TensorFlow, Keras and NumPy also try to import optional packages; those that
    occur in the worker's start are found by :func:`attempted_imports`.
    """
    names = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
    for file in (ROOT / "hydra_tf").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return {name for name in names if name.isidentifier()}


def attempted_imports():
    """Return the names of all packages that the worker tries to import, found or not."""
    code = (
        "import sys\n"
        "sys.addaudithook(lambda event, a: event == 'import' and print(a[0].partition('.')[0]))\n"
        f"import {litert._WORKER}\n"
    )
    options = {"capture_output": True, "text": True, "check": True, "cwd": ROOT}
    return set(subprocess.run([sys.executable, "-c", code], **options).stdout.split())


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A current folder with a file for every import, each of which leaves its name in a file."""
    folder, mark = tmp_path / "trap", tmp_path / "executed"
    folder.mkdir()
    names = imported_names() | attempted_imports() | {"sitecustomize", "usercustomize"}
    assert {"numpy", "tensorflow", "json", "runpy", "ai_edge_litert"} <= names
    for name in names:
        (folder / f"{name}.py").write_text(
            f"with open({str(mark)!r}, 'a') as file: file.write('{name} ' + __name__ + '\\n')\n"
        )
    monkeypatch.chdir(folder)
    # The ways in which the current folder gets on the search path.
    monkeypatch.setattr(sys, "path", ["", ".", str(folder), str(folder / "../trap"), *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(folder)]))
    return mark


def test_exporting_executes_nothing_in_the_current_folder(trap, tmp_path):
    net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    file = tmp_path / "net.tflite"
    with pytest.MonkeyPatch.context() as patch:
        # What this process imports is the user's choice: only the child must be isolated.
        patch.setattr(sys, "path", sys.path[4:])
        content = to_tflite(net, file)
    assert content.max_abs_error < 1e-5
    trap.unlink(missing_ok=True)
    outputs = litert.run_file(file, np.ones([1, 4], np.float32)).outputs
    np.testing.assert_allclose(outputs, net(np.ones([1, 4])), rtol=1e-5)
    assert not trap.exists(), trap.read_text()


def test_the_trap_would_be_noticed(trap, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    assert "numpy numpy" in trap.read_text()


def test_a_checkout_in_the_current_folder_is_found_and_nothing_next_to_it(tmp_path, monkeypatch):
    package = tmp_path / "my_tools"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "report.py").write_text(
        "import sys, json, my_tools, hydra_tf\n"
        "from my_tools import helper\n"
        "print(json.dumps([sys.argv, sys.path, hydra_tf.__file__, helper.NAME, __name__]))\n"
    )
    (package / "helper.py").write_text("NAME = 'helper'\n")
    (tmp_path / "json.py").write_text("raise SystemExit('json.py was executed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = isolated_command("my_tools.report", "--flag=a b", 3)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    arguments, path, file, name, main = ast.literal_eval(text)
    assert arguments[1:] == ["--flag=a b", "3"]
    assert arguments[0] == str(package / "report.py")
    assert (name, main) == ("helper", "__main__")
    assert file == hydra_tf.__file__
    assert str(tmp_path) not in path
    assert "" not in path


def test_other_folders_of_the_path_are_handed_over_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.setattr(sys, "path", ["/a", "", "sub", str(tmp_path), "/b"])
    assert isolated._search_path() == ["/a", str(tmp_path / "sub"), "/b"]
    os.symlink(tmp_path, tmp_path.parent / "link")
    monkeypatch.setattr(sys, "path", [str(tmp_path.parent / "link"), "/b"])
    assert isolated._search_path() == ["/b"]


def test_a_deleted_current_folder_is_no_obstacle(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    monkeypatch.setattr(sys, "path", ["", "relative", "/a"])
    assert isolated._search_path() == ["/a"]
    monkeypatch.chdir(tmp_path)


def test_a_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"^No Python package is named 'no_such_package'"):
        isolated_command("no_such_package.module")


def test_every_child_process_is_isolated():
    """Nothing but the helper names the interpreter, so nothing else starts Python."""
    starts = re.compile(r"sys\.executable|multiprocessing|os\.(system|exec|spawn)\w*\(|shell=True")
    files = [*ROOT.glob("hydra_tf/**/*.py"), *ROOT.glob("flags/**/*.py")]
    files += [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tutorials/*.py")]
    assert len(files) > 100
    found = [path.name for path in files if starts.search(path.read_text(encoding="utf-8"))]
    assert found == ["isolated.py"]
