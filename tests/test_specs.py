"""Brackets in specs, and parts that are parameters of other parts."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_tf import attacks, objectives
from hydra_tf.attacks import ATTACKS, LossAttack
from hydra_tf.core.registry import Registry
from hydra_tf.core.specs import split_outside, without_brackets
from hydra_tf.data.extra_images import split_share
from hydra_tf.objectives import OBJECTIVES

TREES: Registry[Any] = Registry("tree", "hydra_tf.checks")


@TREES.register("tree")
@dataclass(frozen=True)
class Tree:
    """A part with parts as parameters, which it builds itself."""

    label: str = "x"
    size: float = 0.0
    left: Any = None
    right: Any = None
    hidden: int = field(init=False, default=0)

    def __post_init__(self):
        for name in ("left", "right"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, TREES.build(getattr(self, name)))

    def __call__(self):
        return self.label


def trees(children):
    words = st.text(st.characters(categories=("L", "N")), min_size=1)
    return st.builds(
        Tree, words, st.floats(allow_nan=False), st.none() | children, st.none() | children
    )


def written(tree):
    """Return the spec of a tree as a string."""
    pairs = [f"label={tree.label}", f"size={tree.size!r}"]
    pairs += [
        f"{name}=({written(getattr(tree, name))})"
        for name in ("left", "right")
        if getattr(tree, name) is not None
    ]
    return "tree:" + ",".join(pairs)


@pytest.mark.parametrize(
    ("text", "separator", "parts"),
    [
        ("", ",", [""]),
        ("a=(b:c=1,d=(e,f)),g=2", ",", ["a=(b:c=1,d=(e,f))", "g=2"]),
        ("pgd;trades:attack=(a;b);fgsm", ";", ["pgd", "trades:attack=(a;b)", "fgsm"]),
        (",(,),", ",", ["", "(,)", ""]),
        ("a:b=(c:d)", ":", ["a", "b=(c:d)"]),
    ],
)
def test_separators_within_brackets_do_not_separate(text, separator, parts):
    assert split_outside(text, separator) == parts


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        ("a", "a"),
        (" ( a ) ", "a"),
        ("((a,b))", "(a,b)"),
        ("(a)(b)", "(a)(b)"),
        ("(a),(b)", "(a),(b)"),
        ("()", ""),
        ("/data (new)/x", "/data (new)/x"),
    ],
)
def test_only_brackets_around_all_of_a_value_are_taken_off(value, inside):
    assert without_brackets(value) == inside


@pytest.mark.parametrize("text", ["(", ")", "a=(b", "a=b)", ")(", "a=((b)", "a=(b))("])
def test_brackets_that_are_not_balanced_are_refused(text):
    sentence = f'^The brackets in "{re.escape(text)}" are not balanced; every "\\(" needs a "\\)"'
    with pytest.raises(ValueError, match=sentence):
        split_outside(text, ",")
    with pytest.raises(ValueError, match=f'"pgd:epsilon={re.escape(text)}" are not balanced'):
        attacks.build(f"pgd:epsilon={text}")


def test_a_value_in_brackets_is_a_value_like_any_other():
    built = TREES.build("tree:label=(a=1,b:2),size=(1/4),left=(tree:label=(c))")
    assert built == Tree("a=1,b:2", 0.25, Tree("c"))
    assert TREES.build("tree:left=tree").left == Tree()
    with pytest.raises(ValueError, match=r'"left=\(\)" in the tree "tree:left=\(\)" is not of the'):
        TREES.build("tree:left=()")
    with pytest.raises(ValueError, match=r'Unknown tree "bush"\. Known: tree'):
        TREES.build("tree:left=(tree:right=(bush:size=1))")


@given(st.recursive(st.builds(Tree), trees, max_leaves=6))
def test_nested_parts_survive_text_and_config(tree):
    config = TREES.config(tree)
    assert TREES.build(json.loads(json.dumps(config))) == tree
    # A word such as "none" or "12" is text for a text parameter.
    assert TREES.build(written(tree)) == tree


def test_a_part_of_an_unregistered_class_has_no_config():
    @dataclass(frozen=True)
    class Bush(Tree):
        """It is not registered."""

    with pytest.raises(TypeError, match=r"Bush\(.*is of a class that is not registered, so it can"):
        TREES.config(Tree(left=Bush()))


def test_the_names_of_subclasses():
    assert ATTACKS.names(LossAttack) == ("apgd", "cleverhans_pgd", "fgsm", "pgd")
    others = {"autoattack", "fab", "fmn", "square"}
    assert set(ATTACKS.names()) - set(ATTACKS.names(LossAttack)) == others


def test_a_share_of_extra_images_is_read_outside_of_brackets():
    assert split_share("npz:path=(a,share=3),share=0.25") == ("npz:path=(a,share=3)", 0.25)


numbers = st.floats(0.001, 1.0)
options = st.fixed_dictionaries(
    {"epsilon": numbers, "start": st.sampled_from(["uniform", "normal"]), "ramp": numbers}
)
inner = st.sampled_from(
    ["apgd", "apgd:steps=3,restarts=2", "pgd:steps=7,step_size=1/8", "fgsm", "cleverhans_pgd"]
)


@given(st.sampled_from(OBJECTIVES.names(objectives.base.Adversarial)), options, inner)
def test_objectives_survive_their_config_with_any_attack(name, options, attack):
    part = objectives.build({"name": name, **options, "attack": attack})
    text = ",".join([f"{key}={value}" for key, value in options.items()] + [f"attack=({attack})"])
    assert objectives.build(f"{name}:{text}") == part
    config = json.loads(json.dumps(OBJECTIVES.config(part)))
    assert config["attack"]["epsilon"] == options["epsilon"]
    assert objectives.build(config) == part
    assert objectives.build({**config, "attack": part.attack}) == part
    assert hash(part) == hash(objectives.build(config))
