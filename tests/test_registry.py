"""Names, parameters and configs of registered parts."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from hydra_tf.core.registry import Registry, parse_value, unknown


@dataclass(frozen=True)
class Part:
    """A part with a field of every supported type."""

    rate: float = 0.5
    steps: int = 3
    fast: bool = False
    norm: Literal["l2", "linf"] = "l2"
    size: float | None = None
    path: str = ""
    anything: Any = None
    shape: tuple[int, ...] = ()
    area: float = field(init=False, default=0.0)

    def __call__(self):
        return self.rate


@dataclass(frozen=True)
class Bare:
    """A part without parameters."""

    def __call__(self):
        return 0


@pytest.fixture
def parts():
    registry = Registry("part", "hydra_tf.sparsity")
    registry.register("part")(Part)
    registry.register("bare")(Bare)
    registry.register("swift", fast=True, steps=9)(Part)
    return registry


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        (" -3 ", -3),
        ("0.25", 0.25),
        ("1e-3", 0.001),
        ("8/255", 8 / 255),
        ("-1/4", -0.25),
        ("inf", float("inf")),
        ("true", True),
        ("False", False),
        ("None", None),
        ("linf", "linf"),
        ("1/0", "1/0"),
        ("a/b", "a/b"),
        ("", ""),
    ],
)
def test_values_are_parsed(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_unknown_names_get_a_suggestion_and_a_list():
    assert unknown("fruit", "aple", ["pear", "apple"]) == (
        'Unknown fruit "aple"; did you mean "apple"? Known: apple, pear.'
    )
    assert unknown("fruit", "zzz", ["pear"]) == 'Unknown fruit "zzz". Known: pear.'
    assert unknown("fruit", "x", []) == 'Unknown fruit "x". Known: none.'


def test_a_spec_is_split_into_name_and_parameters(parts):
    assert parts.parse("part") == ("part", {})
    assert parts.parse(" part : rate = 1/4 , steps=7,fast=true,norm=linf,size=none") == (
        "part",
        {"rate": 0.25, "steps": 7, "fast": True, "norm": "linf", "size": None},
    )
    assert parts.parse({"name": "part", "rate": 2}) == ("part", {"rate": 2})
    assert parts.parse("part:path=a:b=c") == ("part", {"path": "a:b=c"})


def test_parts_are_built_from_strings_and_mappings(parts):
    built = parts.build("part:rate=2,fast=true,size=1/8,norm=linf,anything=x")
    assert built == Part(rate=2, fast=True, size=0.125, norm="linf", anything="x")
    assert parts.build({"name": "part", "shape": (1, 2)}) == Part(shape=(1, 2))
    assert parts.build("swift") == Part(fast=True, steps=9)
    assert parts.build("swift:steps=1") == Part(fast=True, steps=1)


@pytest.mark.parametrize("word", ["2024", "true", "none", "1/2", "plain"])
def test_text_parameters_are_not_converted(parts, word):
    assert parts.build(f"part:path={word}").path == word


def test_numpy_numbers_become_python_numbers(parts):
    built = parts.build({"name": "part", "rate": np.float32(0.5), "steps": np.int64(4)})
    assert (built.rate, built.steps) == (0.5, 4)
    assert (type(built.rate), type(built.steps)) == (float, int)


def test_defaults_fill_in_missing_parameters(parts):
    assert parts.build("part:steps=1", steps=5, rate=0.75, foreign=1) == Part(steps=1, rate=0.75)
    assert parts.build("bare", steps=5) == Bare()


def test_instances_and_callables_pass_through(parts):
    def custom():
        return 1

    part = Part(rate=0.1)
    assert parts.build(part) is part
    assert parts.build(custom) is custom


@pytest.mark.parametrize("spec", [None, 3, 0.5, ["part"], Part, int])
def test_other_types_are_refused(parts, spec):
    with pytest.raises(TypeError, match="The part must be a name, a mapping, an instance"):
        parts.build(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prat", 'Unknown part "prat"; did you mean "part"? Known: bare, part, swift.'),
        ("", 'Unknown part "". Known: bare, part, swift.'),
        ("bare:rate=1", 'Unknown parameter of part "bare": "rate". Known: none.'),
        ("part:rate", '"rate" in the part "part:rate" is not of the form parameter=value.'),
        ("part:rate=", '"rate=" in the part "part:rate=" is not of the form parameter=value.'),
        ("part:rate=1,rate=2", '"rate" is given twice in the part "part:rate=1,rate=2".'),
        ({"rate": 1}, 'The part given as a mapping needs the key "name".'),
        ({"name": 3}, 'The part given as a mapping needs the key "name".'),
    ],
)
def test_bad_specs_are_refused(parts, spec, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parts.build(spec)


def test_an_unknown_parameter_suggests_the_nearest(parts):
    with pytest.raises(ValueError, match='"raet"; did you mean "rate"'):
        parts.build("part:raet=1")
    with pytest.raises(ValueError, match='"area"'):
        parts.build("part:area=1")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("part:rate=fast", "a number, not 'fast'"),
        ("part:rate=true", "a number, not 'true'"),
        ("part:rate=none", "a number, not 'none'"),
        ("part:steps=1.5", "a whole number, not '1.5'"),
        ("part:steps=true", "a whole number, not 'true'"),
        ("part:fast=1", "true or false, not '1'"),
        ("part:norm=l3", "one of l2, linf, not 'l3'"),
        ("part:size=x", "a number or none, not 'x'"),
        ({"name": "part", "path": 3}, "text, not 3"),
        ({"name": "part", "rate": "8/255"}, "a number, not '8/255'"),
        ({"name": "part", "shape": 3}, "tuple"),
    ],
)
def test_values_of_the_wrong_type_are_refused(parts, spec, expected):
    with pytest.raises(TypeError, match=expected):
        parts.build(spec)


def test_configs_build_equal_parts(parts):
    for part in (
        Part(),
        Part(rate=0.1, steps=2, norm="linf", size=3.0, shape=(2,)),
        Part(fast=True, steps=9),
        Part(fast=True, steps=8),
        Bare(),
    ):
        assert parts.build(parts.config(part)) == part
    assert parts.config(Part(fast=True, steps=9))["name"] in ("part", "swift")


def test_overridden_preset_has_a_config():
    registry = Registry("part", "hydra_tf.sparsity")
    registry.register("swift", fast=True)(Part)
    part = registry.build("swift:fast=false,steps=2")
    assert registry.build(registry.config(part)) == part == Part(fast=False, steps=2)


def test_unregistered_objects_have_no_config(parts):
    with pytest.raises(TypeError, match="is not a registered part"):
        parts.config(len)


def test_a_name_belongs_to_one_class(parts):
    with pytest.raises(ValueError, match='The part "part" is already registered'):
        parts.register("part")(Bare)
    assert parts.register("part")(Part) is Part


def test_a_part_is_named_after_its_file():
    registry = Registry("part", "hydra_tf.sparsity")
    registry.register()(Part)
    assert registry.names() == (Part.__module__.rpartition(".")[2],)


def test_looking_up_names_and_parameters_does_not_load_tensorflow():
    code = """
import sys
import hydra_tf, hydra_tf.objectives, hydra_tf.attacks, hydra_tf.sparsity
from hydra_tf import attacks, objectives, sparsity
objectives.OBJECTIVES.names(), attacks.ATTACKS.names(), sparsity.SCORE_INITS.names()
sparsity.ALLOCATIONS.names(), sparsity.GRANULARITIES.names()
assert objectives.build("trades:beta=3").beta == 3
attacks.build("pgd:steps=2")
print(sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras"}))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import hydra_tf.layers.masked",
        "from hydra_tf.models.masking import strip_masks",
        "import hydra_tf.training.callbacks.pipeline",
    ],
)
def test_every_package_can_be_the_first_to_import_keras(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr[-500:]
