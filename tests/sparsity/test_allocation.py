"""Allocation of densities to layers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_tf.sparsity.allocation import allocate

SCORES = {"a": np.array([4.0, -3.0, 0.1, 0.2]), "b": np.array([[1.0, 5.0], [0.0, 0.3]])}


def test_uniform():
    assert allocate("uniform", SCORES, 0.3) == {"a": 0.3, "b": 0.3}


def test_largest_ranks_the_whole_network():
    # 5, 4 and 3 are the three largest of eight.
    assert allocate("largest", SCORES, 3 / 8) == {"a": 0.5, "b": 0.25}


def test_largest_keeps_one_weight_per_layer():
    assert allocate("largest", {"a": np.ones(4), "b": np.zeros(5)}, 0.4) == {"a": 1.0, "b": 0.2}


def test_erk_by_hand():
    # Densities in proportion to 20/100 and 110/1000: 0.1 * 1100 = f * (20 + 110), f = 11/13.
    shares = allocate("erk", {"a": np.zeros((10, 10)), "b": np.zeros((100, 10))}, 0.1)
    assert shares["a"] == pytest.approx(0.2 * 11 / 13)
    assert shares["b"] == pytest.approx(0.11 * 11 / 13)


def test_erk_limits_densities_to_1():
    # a: 4/4, b: 110/1000. f = 502/114 = 4.4: the density of a is limited to 1, and b gets the rest.
    shares = allocate("erk", {"a": np.zeros((2, 2)), "b": np.zeros((100, 10))}, 0.5)
    assert shares["a"] == 1.0
    assert shares["b"] == pytest.approx((502 - 4) / 1000)


@settings(deadline=None, max_examples=80)
@given(
    shapes=st.lists(
        st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5
    ),
    density=st.floats(0.001, 1),
)
def test_erk_keeps_the_given_share_of_weights(shapes, density):
    scores = {str(i): np.zeros(shape) for i, shape in enumerate(shapes)}
    shares = allocate("erk", scores, density)
    total = sum(share * scores[name].size for name, share in shares.items())
    assert total == pytest.approx(density * sum(s.size for s in scores.values()), rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    density=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_largest_equals_one_stable_sort(sizes, density, seed):
    rng = np.random.default_rng(seed)
    scores = {str(i): rng.integers(-3, 4, size).astype(float) for i, size in enumerate(sizes)}
    flat = [(-abs(v), i, j) for i, s in scores.items() for j, v in enumerate(s)]
    first = sorted(flat)[: max(1, round(density * len(flat)))]
    shares = allocate("largest", scores, density)
    for name, values in scores.items():
        count = sum(owner == name for _, owner, _ in first)
        assert round(shares[name] * values.size) == max(1, count)


def test_mappings_and_callables_are_accepted():
    assert allocate({"a": 0.5, "b": 1}, SCORES, 0.1) == {"a": 0.5, "b": 1}
    halved = allocate(lambda scores, density: dict.fromkeys(scores, density / 2), SCORES, 0.5)
    assert halved == {"a": 0.25, "b": 0.25}


def test_bad_allocations_are_refused():
    with pytest.raises(ValueError, match=r"names the layers \['a'\], but .* \['a', 'b'\]"):
        allocate({"a": 0.5}, SCORES, 0.1)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]; the allocation returned {'b': 0}"):
        allocate({"a": 0.5, "b": 0}, SCORES, 0.1)
    with pytest.raises(ValueError, match='"unifrom"; did you mean "uniform"'):
        allocate("unifrom", SCORES, 0.1)
