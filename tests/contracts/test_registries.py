"""What holds for every registered part of every registry."""

import dataclasses
import importlib
import inspect

import pytest

REGISTRIES = {
    "hydra_tf.attacks": ["ATTACKS"],
    "hydra_tf.bounds": ["BOUNDS"],
    "hydra_tf.objectives": ["OBJECTIVES"],
    "hydra_tf.sparsity": ["SCORE_INITS", "GRANULARITIES", "ALLOCATIONS"],
    "hydra_tf.data": ["DATASETS"],
    "hydra_tf.models": ["MODELS"],
}
PARTS = [
    (registry, name)
    for package, registries in REGISTRIES.items()
    for registry in (getattr(importlib.import_module(package), each) for each in registries)
    for name in registry.names()
]
IDS = [f"{registry.kind}-{name}" for registry, name in PARTS]
OTHER = {int: 3, float: 0.125, bool: True, str: "text"}


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=IDS)
def test_parts_build_by_name_and_again_from_their_config(registry, name):
    part = registry.build(name)
    config = registry.config(part)
    assert registry.build(config) == part
    assert registry.build(part) is part
    assert set(config) == {"name", *registry.parameters(name)}


def built_or_refused(registry, spec, key):
    """The part, or None when it refuses the value in a sentence that names the parameter."""
    try:
        return registry.build(spec)
    except ValueError as error:
        if key not in str(error):
            raise
        return None


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=IDS)
def test_parameters_set_by_a_string_survive_the_round_trip(registry, name):
    for key, hint in registry.parameters(name).items():
        if hint not in OTHER:
            continue
        part = built_or_refused(registry, f"{name}:{key}={OTHER[hint]}", key)
        if part is None:
            continue
        assert getattr(part, key) == OTHER[hint]
        assert registry.build(registry.config(part)) == part


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=IDS)
def test_parts_are_documented_frozen_dataclasses(registry, name):
    kind = type(registry.build(name))
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    text = inspect.cleandoc(vars(kind)["__doc__"])
    assert not text.startswith(f"{kind.__name__}(")  # the one that dataclass writes itself
    assert text.partition("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=IDS)
def test_unknown_parameters_are_refused(registry, name):
    with pytest.raises(ValueError, match=f'Unknown parameter of {registry.kind} "{name}"'):
        registry.build(f"{name}:no_such_parameter=1")


@pytest.mark.parametrize("registry", {id(r): r for r, _ in PARTS}.values(), ids=lambda r: r.kind)
def test_unknown_names_are_refused_and_the_known_listed(registry):
    with pytest.raises(ValueError, match=f"Unknown {registry.kind}") as error:
        registry.build("no_such_part")
    assert all(name in str(error.value) for name in registry.names())
