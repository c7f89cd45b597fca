"""The allocation that learns densities: its start, its budgets, and multiply-adds."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hydra_tf
from hydra_tf.sparsity import ALLOCATIONS, masked_layers, report
from hydra_tf.sparsity.allocation import kept_per_layer
from hydra_tf.sparsity.budget import exact_counts
from hydra_tf.sparsity.learned import Learned
from hydra_tf.sparsity.multiply_adds import weight_costs

SCORES = {"a": np.ones([3, 3]), "b": np.ones([9, 9])}


def masked_net():
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input([8, 6, 1]),
            layers.Conv2D(2, 3, strides=2, padding="same", name="conv"),  # 4 x 3 positions
            layers.Flatten(),
            layers.Dense(5, name="dense"),
        ]
    )
    return hydra_tf.mask_model(net)


def test_the_phase_starts_at_a_number_or_an_allocation():
    assert Learned().start_densities(SCORES, 0.01) == {"a": 0.1, "b": 0.1}
    assert Learned(start=0.05).start_densities(SCORES, 0.2) == {"a": 0.2, "b": 0.2}
    # In proportion to 6 / 9 and 18 / 81 with 18 of 90 weights: factor 18 / (6 + 18).
    erk = ALLOCATIONS.build("learned:start=(erk:min_kept=2)").start_densities(SCORES, 0.2)
    assert erk == {"a": pytest.approx(0.5), "b": pytest.approx(1 / 6)}


def test_without_a_prune_phase_densities_are_those_of_the_start():
    for spec, other in (("learned", "uniform"), ("learned:start=erk", "erk")):
        assert kept_per_layer(spec, SCORES, 0.2) == kept_per_layer(other, SCORES, 0.2)
    kept = kept_per_layer(Learned().proportional_to({"a": 0.2, "b": 0.1}), SCORES, 0.4)
    # 36 weights at the ratio 2 * 9 to 1 * 81: 6.545 and 29.455.
    assert kept == {"a": 7, "b": 29}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("learned:start=0", r"must lie in \(0, 1\], not 0"),
        ("learned:start=learned", "must be a number or an allocation that is not learned"),
        ("learned:start=erc", 'Unknown allocation "erc"; did you mean "erk"'),
        ("learned:k_min=1", r'k_min of the allocation "learned" must lie in \[0, 1\), not 1'),
        ("learned:momentum=-1", r"momentum of .* must lie in \[0, 1\), not -1"),
        ("learned:gamma=0", "gamma of .* must be a finite number above 0, not 0"),
        ("learned:rate=inf", "rate of .* must be a finite number above 0, not inf"),
    ],
)
def test_invalid_parameters_are_refused(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        ALLOCATIONS.build(spec)


def test_an_unknown_budget_is_refused():
    with pytest.raises(TypeError, match=r'"budget" .* must be one of weights, flops'):
        ALLOCATIONS.build("learned:budget=bytes")


def test_multiply_adds_by_hand():
    net = masked_net()
    assert weight_costs(net, masked_layers(net)) == [12, 1]
    shared, tokens = keras.layers.Dense(4), keras.Input([7, 4])
    twice = keras.Model(tokens, shared(shared(tokens)))
    assert weight_costs(twice, [shared]) == [14]
    first = keras.layers.Conv1D(3, 3, padding="causal", dilation_rate=2)
    depthwise = keras.layers.DepthwiseConv2D(3, data_format="channels_first")
    assert weight_costs(keras.Sequential([keras.Input([9, 2]), first]), [first]) == [9]
    net = keras.Sequential([keras.Input([2, 8, 6]), depthwise])
    assert weight_costs(net, [depthwise]) == [24]


def test_multiply_adds_that_are_unknown_are_refused():
    lstm = keras.layers.LSTM(3, name="lstm")
    net = hydra_tf.mask_model(keras.Sequential([keras.Input([7, 4]), lstm]))
    with pytest.raises(ValueError, match=r'layer "lstm/cell/kernel" are unknown: .*budget=weights'):
        hydra_tf.set_density(net, 0.5, "learned:budget=flops")
    conv = keras.layers.Conv2D(2, 3)
    varying = keras.Sequential([keras.Input([None, None, 1]), conv])
    with pytest.raises(ValueError, match="whose inputs have a fixed size"):
        weight_costs(varying, [conv])


def test_a_budget_of_multiply_adds_by_hand():
    net = masked_net()  # 18 weights of 12 multiply-adds, 120 of one
    hydra_tf.set_density(net, 0.5, "learned:budget=flops")
    assert [row["kept"] for row in report(net)["layers"]] == [9, 60]  # 168 of 336
    hydra_tf.set_density(net, 0.1, "learned:budget=flops")
    # 33.6: 1.8 and 12 weights become 1 and 12, and 9 multiply-adds are left for single weights.
    assert [row["kept"] for row in report(net)["layers"]] == [1, 21]
    with pytest.raises(ValueError, match="A budget of 3 of 336 multiply-adds is too small"):
        hydra_tf.set_density(net, 0.01, "learned:budget=flops")


@settings(deadline=None, max_examples=100)
@given(
    entries=st.lists(
        st.tuples(st.floats(0.01, 50), st.integers(1, 40), st.integers(1, 5), st.integers(1, 300)),
        min_size=1,
        max_size=8,
    ),
    share=st.floats(0, 1),
)
def test_costs_stay_within_the_budget_and_nothing_more_fits(entries, share):
    names = [str(i) for i in range(len(entries))]
    ideal, sizes, floors, costs = (
        dict(zip(names, part, strict=True)) for part in zip(*entries, strict=True)
    )
    floors = {name: min(floor, sizes[name]) for name, floor in floors.items()}
    low, high = (sum(costs[n] * part[n] for n in names) for part in (floors, sizes))
    total = low + round(share * (high - low))
    counts = exact_counts(ideal, sizes, floors, total, costs)
    left = total - sum(costs[name] * counts[name] for name in names)
    assert all(floors[name] <= counts[name] <= sizes[name] for name in names)
    assert left >= 0
    assert all(costs[name] > left for name in names if counts[name] < sizes[name])
