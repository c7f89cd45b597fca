"""What holds for every registered part of every registry."""

import dataclasses
import importlib
import inspect
import pkgutil

import hydra_tf
from hydra_tf.core.registry import Registry

VALUES = {int: 3, float: 0.125, bool: True, str: "text"}


def registries():
    """Return every registry that a module of hydra_tf defines."""
    found = {}
    for module in pkgutil.walk_packages(hydra_tf.__path__, "hydra_tf."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Registry):
                found[id(value)] = value
    return sorted(found.values(), key=lambda registry: registry.kind)


def check_config(registry, name):
    """Check that a part equals the one built from its config."""
    part = registry.build(name)
    config = registry.config(part)
    assert registry.build(config) == part, f'"{name}" is not equal to its config {config}'
    assert registry.build(part) is part, f'"{name}" is not returned unchanged'
    assert set(config) == {"name", *registry.parameters(name)}


def _build_or_refuse(registry, spec, key):
    """Return the part, or None if it refuses the value in a sentence that names the parameter."""
    try:
        return registry.build(spec)
    except ValueError as error:
        named = key in str(error) or key.replace("_", " ") in str(error)
        if not named:
            raise AssertionError(f'"{spec}" is refused without naming {key}: {error}') from error
        return None


def check_parameters(registry, name):
    """Check that parameters in a string are set, or refused in a sentence that names them."""
    for key, hint in registry.parameters(name).items():
        if hint not in VALUES:
            continue
        part = _build_or_refuse(registry, f"{name}:{key}={VALUES[hint]}", key)
        if part is not None:
            assert getattr(part, key) == VALUES[hint], f'"{name}" does not keep {key}'
            assert registry.build(registry.config(part)) == part, f'"{name}" loses {key}'


def check_class(registry, name):
    """Check that a part is a frozen dataclass with a docstring."""
    cls = type(registry.build(name))
    assert dataclasses.is_dataclass(cls), f"{cls.__name__} is not a dataclass"
    assert cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen"
    text = inspect.cleandoc(vars(cls)["__doc__"])
    # A dataclass without a docstring gets its signature.
    assert not text.startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring"
    assert text.partition("\n")[0].endswith((".", ":")), f"{cls.__name__}: {text}"
