"""Commands of Python processes that execute nothing from the current folder.

``python -c`` and ``python -m`` put the current folder before all packages, so that a file
``numpy.py`` there, perhaps unpacked with someone else's data, would be executed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence

# Python's own packages remain available if the current folder is one of theirs. The finder lets a
# package be imported from a folder whose other files are not.
_START = """
import importlib.machinery, json, runpy, sys
module, folders, packages = json.loads(sys.argv.pop(1))
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in packages:
            return importlib.machinery.PathFinder.find_spec(name, [packages[name]])
sys.path[:] = [*folders, *(folder for folder in sys.path if folder not in folders)]
sys.meta_path.insert(0, Finder)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def isolated_command(module: str, *arguments: object, packages: Sequence[str] = ()) -> list[str]:
    """Return the command that runs a module in Python without the current folder.

    Python starts in isolated mode (``-I``), so it also ignores ``PYTHONPATH`` and the like. It
    searches the folders of this process's ``sys.path`` except the current one. The package of the
    module, hydra_tf and the named packages are found where this process finds them: they may be in
    the current folder, as in a checkout, but nothing next to them is imported.

    Args:
        module: dotted name of the module, which runs as ``__main__``.
        *arguments: its arguments, converted to text.
        packages: names of further packages that the module imports and that may be in the current
            folder.

    Raises:
        ModuleNotFoundError: when one of these packages does not exist.

    Example:
        >>> import subprocess
        >>> command = isolated_command("platform", "nothing")
        >>> subprocess.run(command, capture_output=True, check=True).stdout != b""
        True
    """
    names = ("hydra_tf", module.partition(".")[0], *packages)
    plan = json.dumps([module, _search_path(), {name: _folder_of(name) for name in names}])
    return [sys.executable, "-I", "-c", _START, plan, *map(str, arguments)]


def _search_path() -> list[str]:
    """Return the folders of ``sys.path`` without the current folder, under any of its names."""
    try:
        current = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # the current folder was deleted
        return [folder for folder in sys.path if os.path.isabs(folder)]
    return [
        os.path.abspath(folder)
        for folder in sys.path
        if folder and os.path.realpath(folder) != current
    ]


def _folder_of(package: str) -> str:
    """Return the folder that contains a package or module."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No Python package is named {package!r}; install it.")
    origin = os.path.abspath(spec.origin)
    return os.path.dirname(os.path.dirname(origin) if spec.submodule_search_locations else origin)
