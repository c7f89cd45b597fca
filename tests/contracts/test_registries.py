"""Every part of every registry, and wrong parts that the contract catches."""

from dataclasses import dataclass

import pytest

from hydra_tf.core.registry import Registry
from tests.contracts import registry_contract as contract

REGISTRIES = contract.registries()
PARTS = [(registry, name) for registry in REGISTRIES for name in registry.names()]
each_part = pytest.mark.parametrize(
    ("registry", "name"), PARTS, ids=[f"{registry.kind}-{name}" for registry, name in PARTS]
)


@each_part
def test_parts_equal_those_built_from_their_config(registry, name):
    contract.check_config(registry, name)


@each_part
def test_parameters_are_set_by_a_string_and_kept_in_the_config(registry, name):
    contract.check_parameters(registry, name)


@each_part
def test_parts_are_documented_frozen_dataclasses(registry, name):
    contract.check_class(registry, name)


@each_part
def test_unknown_parameters_are_refused(registry, name):
    with pytest.raises(ValueError, match=f'Unknown parameter of {registry.kind} "{name}"'):
        registry.build(f"{name}:no_such_parameter=1")


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_unknown_names_are_refused_and_the_known_listed(registry):
    with pytest.raises(ValueError, match=f"Unknown {registry.kind}") as error:
        registry.build("no_such_part")
    assert registry.names()
    assert all(name in str(error.value) for name in registry.names())


@dataclass
class Mutable:
    """A part that can change after it was built."""

    steps: int = 1


@dataclass(frozen=True)
class WithoutDocstring:
    steps: int = 1


@dataclass(frozen=True)
class GreyLevels:
    """A part that converts its radius, so that its config is converted twice."""

    epsilon: float = 8.0

    def __post_init__(self):
        object.__setattr__(self, "epsilon", self.epsilon / 255)


@dataclass(frozen=True)
class Forgetful:
    """A part that ignores the parameter."""

    steps: int = 1

    def __post_init__(self):
        object.__setattr__(self, "steps", 1)


@dataclass(frozen=True)
class Nameless:
    """A part whose error does not name the parameter."""

    steps: int = 1

    def __post_init__(self):
        if self.steps > 1:
            raise ValueError("This does not work.")


@pytest.mark.parametrize(
    ("check", "wrong", "sentence"),
    [
        (contract.check_class, Mutable, "Mutable is not frozen"),
        (contract.check_class, WithoutDocstring, "has no docstring"),
        (contract.check_config, GreyLevels, "is not equal to its config"),
        (contract.check_parameters, Forgetful, "does not keep steps"),
        (contract.check_parameters, Nameless, "is refused without naming steps"),
    ],
)
def test_a_wrong_part_is_caught(check, wrong, sentence):
    registry = Registry("part", "hydra_tf.checks")
    registry.register("wrong")(wrong)
    with pytest.raises(AssertionError, match=sentence):
        check(registry, "wrong")
