"""Each public class and function has an example in its docstring, which `make test` runs.

Other public names need none: constants, types, and registries with their `build`. Registered parts
are named by specs, not by public names; `tests/contracts` builds each of them.
"""

import importlib
import inspect
import pkgutil
import types

import pytest

import hydra_tf

PACKAGES = ["hydra_tf"] + [
    found.name for found in pkgutil.walk_packages(hydra_tf.__path__, "hydra_tf.") if found.ispkg
]


def needs_example(value):
    """Return whether a public value is a class or function of the library."""
    ours = str(getattr(value, "__module__", "")).startswith("hydra_tf")
    return ours and (inspect.isclass(value) or inspect.isfunction(value))


def without_example(module):
    """Return the public names of a module that need an example and have none."""
    public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    return [
        name
        for name, value in public.items()
        if needs_example(value) and ">>> " not in (value.__doc__ or "")
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_an_example(package):
    assert without_example(importlib.import_module(package)) == []


def test_a_name_without_an_example_is_found():
    class Documented:
        """A class.

        >>> 1 + 1
        2
        """

    class Inherits(Documented):
        pass

    def function():
        """Return nothing."""

    public = {"Documented": Documented, "Inherits": Inherits, "function": function}
    for value in public.values():
        value.__module__ = "hydra_tf.somewhere"
    module = types.SimpleNamespace(__all__=[*public, "CONSTANT"], CONSTANT=1, **public)
    assert without_example(module) == ["Inherits", "function"]


def test_every_kind_of_public_name_is_seen():
    module = importlib.import_module("hydra_tf.attacks")
    needed = {name: needs_example(getattr(module, name)) for name in module.__all__}
    assert needed["Attack"] and needed["project"]
    assert not needed["ATTACKS"] and not needed["build"]
