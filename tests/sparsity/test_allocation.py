"""Allocation of a budget of weights to layers."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hydra_tf
from hydra_tf.sparsity.allocation import ALLOCATIONS, kept_per_layer
from hydra_tf.sparsity.budget import exact_counts

SCORES = {"a": np.array([4.0, -3.0, 0.1, 0.2]), "b": np.array([[1.0, 5.0], [0.0, 0.3]])}
SHAPES = st.lists(
    st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6
)


def zeros(**shapes):
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def test_uniform_rounds_the_total():
    # 0.3 * 8 = 2.4, so that 2 weights are kept; each layer has 1.2.
    assert kept_per_layer("uniform", SCORES, 0.3) == {"a": 1, "b": 1}
    # 0.25 * 30 = 7.5, rounded to 8: 2.5, 2.5 and 2.5, of which the first two names get one more.
    thirds = zeros(c=10, b=10, a=10)
    assert kept_per_layer("uniform", thirds, 0.25) == {"c": 2, "b": 3, "a": 3}


def test_uniform_per_layer_rounds_as_the_paper_does():
    scores = zeros(a=13, b=13, c=13)
    assert kept_per_layer("uniform:per_layer=true", scores, 0.2) == {"a": 3, "b": 3, "c": 3}
    assert sum(kept_per_layer("uniform", scores, 0.2).values()) == 8  # 7.8


def test_global_ranks_the_whole_network():
    # 5, 4 and 3 are the three largest of eight.
    assert kept_per_layer("global", SCORES, 3 / 8) == {"a": 2, "b": 1}
    assert kept_per_layer("global", {"a": np.ones(4), "b": np.zeros(5)}, 0.4) == {"a": 3, "b": 1}


def test_largest_is_a_deprecated_name_of_global():
    with pytest.warns(DeprecationWarning, match='"largest" is deprecated; use "global"'):
        assert kept_per_layer("largest", SCORES, 3 / 8) == {"a": 2, "b": 1}


def test_lamp_by_hand():
    # Squares of a: 16, 9, 1 with LAMP 16/16, 9/25, 1/26; of b: 4, 4 with 4/4, 4/8.
    scores = {"a": np.array([1.0, -4.0, 3.0]), "b": np.array([2.0, -2.0])}
    assert kept_per_layer("lamp", scores, 3 / 5) == {"a": 1, "b": 2}
    assert kept_per_layer("lamp", scores, 4 / 5) == {"a": 2, "b": 2}
    scaled = {"a": 100 * scores["a"], "b": scores["b"]}
    assert kept_per_layer("lamp", scaled, 3 / 5) == {"a": 1, "b": 2}


@settings(deadline=None, max_examples=50)
@given(shapes=SHAPES, density=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_lamp_equals_its_definition(shapes, density, seed):
    rng = np.random.default_rng(seed)
    scores = {str(i): rng.normal(size=shape).astype("float32") for i, shape in enumerate(shapes)}
    ranked = []
    for name, values in scores.items():
        squares = values.astype(np.float64).ravel() ** 2
        ranked += [(w / squares[squares >= w].sum(), name) for w in squares]
    total = max(1, round(density * len(ranked)))
    largest = [name for _, name in sorted(ranked, key=lambda entry: -entry[0])[:total]]
    if total >= len(shapes):  # otherwise not every layer can keep a weight
        kept = kept_per_layer("lamp", scores, density)
        assert kept == {name: largest.count(name) for name in scores}


def test_erk_by_hand():
    # In proportion to 20 and 110 of a budget of 110: 16.9 and 93.1.
    assert kept_per_layer("erk", zeros(a=(10, 10), b=(100, 10)), 0.1) == {"a": 17, "b": 93}
    # a: 4 of 4, b: 110 of 1000; f = 502/114, so that a is kept whole and b gets the rest.
    assert kept_per_layer("erk", zeros(a=(2, 2), b=(100, 10)), 0.5) == {"a": 4, "b": 498}


def test_uniform_plus_by_hand():
    # 10 + 0.2 * 20 of a budget of 30 leave 16 for 270 weights.
    scores = zeros(first=(10, 1), middle=(27, 10), last=(2, 10))
    kept = kept_per_layer("uniform_plus", scores, 0.1)
    assert kept == {"first": 10, "middle": 16, "last": 4}
    assert kept_per_layer("uniform_plus", zeros(a=20, b=20), 0.1) == {"a": 2, "b": 2}
    with pytest.raises(ValueError, match=r"a density from 0.05 to 0.946667, .* density=0.04"):
        kept_per_layer("uniform_plus", scores, 0.04)


def test_every_layer_keeps_a_floor():
    scores = {"a": np.full(100, 9.0), "b": np.zeros((5, 4)), "c": np.zeros(2)}
    kept = {
        name: kept_per_layer(f"{name}:min_kept=3", scores, 0.1) for name in ("uniform", "global")
    }
    assert kept == {"uniform": {"a": 7, "b": 3, "c": 2}, "global": {"a": 7, "b": 3, "c": 2}}
    kept = kept_per_layer(
        "uniform:every_output=true", {**zeros(d=100), "b": zeros(b=20)["b"]}, 0.1, 4
    )
    assert kept == {"d": 8, "b": 4}
    with pytest.raises(
        ValueError, match=r"A budget of 2 of 122 .* at least 3, a density of 0.025; "
    ):
        kept_per_layer("uniform", scores, 0.02)
    assert kept_per_layer("uniform", scores, 0.025) == {"a": 1, "b": 1, "c": 1}


@settings(deadline=None, max_examples=150)
@given(
    shapes=SHAPES,
    density=st.floats(0.0005, 1),
    name=st.sampled_from(["uniform", "erk", "lamp", "global"]),
    seed=st.integers(0, 9),
)
def test_budgets_are_met_exactly(shapes, density, name, seed):
    rng = np.random.default_rng(seed)
    scores = {str(i): rng.integers(-3, 4, shape).astype("f") for i, shape in enumerate(shapes)}
    whole = sum(values.size for values in scores.values())
    total = max(1, round(density * whole))
    if total < len(shapes):
        with pytest.raises(ValueError, match=f"the layers keep at least {len(shapes)}"):
            kept_per_layer(name, scores, density)
        return
    kept = kept_per_layer(name, scores, density)
    assert sum(kept.values()) == total
    assert all(1 <= kept[key] <= values.size for key, values in scores.items())


@settings(deadline=None, max_examples=100)
@given(
    entries=st.lists(
        st.tuples(st.floats(0.01, 50), st.integers(1, 40), st.integers(1, 5)),
        min_size=1,
        max_size=8,
    ),
    share=st.floats(0, 1),
)
def test_numbers_of_weights_add_up_within_their_limits(entries, share):
    names = [str(i) for i in range(len(entries))]
    ideal, sizes, floors = (
        dict(zip(names, part, strict=True)) for part in zip(*entries, strict=True)
    )
    floors = {name: min(floor, sizes[name]) for name, floor in floors.items()}
    low, high = sum(floors.values()), sum(sizes.values())
    total = low + round(share * (high - low))
    counts = exact_counts(ideal, sizes, floors, total)
    assert sum(counts.values()) == total
    assert all(floors[name] <= counts[name] <= sizes[name] for name in names)


def test_mappings_name_layers_patterns_and_parts_of_layers():
    scores = zeros(**{"conv_1": 10, "conv_2": 10, "rnn/kernel": 10, "rnn/recurrent": 10, "out": 10})
    # 30 of 50: 10 + 2 * 2 + 2 * 5 = 24 leave 6 for conv_2.
    mapping = {"out": 1.0, "rnn": 0.2, "conv_1": 0.5}
    kept = kept_per_layer(mapping, scores, 0.6)
    assert (
        kept == {"conv_1": 5, "conv_2": 10, "rnn/kernel": 2, "rnn/recurrent": 2, "out": 10} or kept
    )
    assert sum(kept.values()) == 30
    kept = kept_per_layer({"conv_*": 0.1, "conv_2": 0.3}, scores, 0.2)
    assert kept == {"conv_1": 1, "conv_2": 3, "rnn/kernel": 2, "rnn/recurrent": 2, "out": 2}
    assert kept_per_layer({"a": 0.5, "b": 1.0}, SCORES, 0.75) == {"a": 2, "b": 4}
    by_callable = kept_per_layer(lambda scores, density: {"a": 0.25, "b": 0.75}, SCORES, 0.5)
    assert by_callable == {"a": 1, "b": 3}


def test_given_densities_that_whole_groups_change_are_warned_of(caplog):
    scores = {"a": np.ones(8), "b": np.ones(40)}
    # 24 weights: b keeps at least a group of 20, so that a keeps 4 instead of 8.
    kept = kept_per_layer({"a": 1.0}, scores, 0.5, units={"a": 4, "b": 20})
    assert kept == {"a": 4, "b": 20}
    assert "layer a keeps 4 weights, not the 8 of its density" in caplog.text
    caplog.clear()
    assert kept_per_layer({"a": 0.4}, scores, 0.5, units={"a": 4, "b": 20}) == {"a": 4, "b": 20}
    assert not caplog.text


def test_bad_allocations_are_refused():
    with pytest.raises(ValueError, match=r'names the layer "c", but the masked layers are \["?\'a'):
        kept_per_layer({"c": 0.5}, SCORES, 0.1)
    with pytest.raises(ValueError, match=r"names the layers \['a'\], but .* \['a', 'b'\]"):
        kept_per_layer(lambda scores, density: {"a": 0.5}, SCORES, 0.1)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]; the allocation returned {'b': 0}"):
        kept_per_layer({"a": 0.5, "b": 0}, SCORES, 0.1)
    with pytest.raises(
        ValueError, match=r"density from 0.75 to 0.75, which contradicts density=0.1"
    ):
        kept_per_layer({"a": 0.5, "b": 1.0}, SCORES, 0.1)
    with pytest.raises(ValueError, match='"unifrom"; did you mean "uniform"'):
        kept_per_layer("unifrom", SCORES, 0.1)
    with pytest.raises(ValueError, match="min_kept must be at least 1 weight, not 0"):
        kept_per_layer("erk:min_kept=0", SCORES, 0.1)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], not 2"):
        kept_per_layer("uniform_plus:last=2", SCORES, 0.1)


def test_no_allocation_but_largest_is_deprecated():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ALLOCATIONS.names():
            if name != "largest":
                ALLOCATIONS.build(name)


@pytest.mark.parametrize(
    ("method", "granularity", "allocation"),
    [
        ("hydra:score_init=magnitude", "element", "global"),
        ("lwm", "filter", "erk"),
        ("snip", "element", "erk"),
        ("hydra", "n_m:n=2,m=4", "uniform"),
    ],
)
def test_pipelines_choose_an_allocation_that_suits_the_method(method, granularity, allocation):
    pipeline = hydra_tf.HydraCallback(0.5, 1, 1, 1, method=method, granularity=granularity)
    assert pipeline.allocation == allocation
    pipeline = hydra_tf.HydraCallback(0.5, 1, 1, 1, method=method, allocation="lamp")
    assert pipeline.allocation == "lamp"
