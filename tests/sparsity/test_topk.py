"""Exact selection, checked against a stable sort."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hydra_tf.sparsity import kept_count, topk_mask
from hydra_tf.sparsity.topk import count_kept

graph_topk_mask = tf.function(topk_mask)


def by_sorting(scores, kept):
    """Return the mask by a stable sort, which puts the lowest index of equal magnitudes first."""
    order = np.argsort(-np.abs(scores.astype(np.float64)).ravel(), kind="stable")
    mask = np.zeros(scores.size, np.float32)
    mask[order[:kept]] = 1
    return mask.reshape(scores.shape)


TINY = float(np.float32(1e-45))
EDGE_CASES = [0.0, -0.0, TINY, -TINY, 2 * TINY, 1e-39, 1.0, -1.0, 1 + 2**-23, 3e38, np.inf, -np.inf]
EDGE_CASES = [float(np.float32(value)) for value in EDGE_CASES]


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_equals_a_stable_sort(data):
    scores = data.draw(
        hnp.arrays(
            np.float32,
            hnp.array_shapes(min_dims=0, max_dims=4, max_side=6),
            elements=st.one_of(st.sampled_from(EDGE_CASES), st.floats(width=32, allow_nan=False)),
        )
    )
    kept = data.draw(st.integers(1, scores.size))
    mask = topk_mask(scores, kept).numpy()
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, by_sorting(scores, kept))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", [0.001, 0.01, 0.37, 0.999])
def test_large_scores_in_graph_and_eager(seed, density):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 3, 40, 30)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = 0.125  # many ties in the middle
    kept = kept_count(density, scores.size)
    expected = by_sorting(scores, kept)
    assert expected.sum() == kept
    np.testing.assert_array_equal(topk_mask(scores, kept), expected)
    np.testing.assert_array_equal(graph_topk_mask(tf.constant(scores), kept), expected)


@pytest.mark.parametrize("kept", range(1, 7))
def test_ties_go_to_the_lowest_index(kept):
    scores = np.array([[0.0, -2.0, 2.0], [-0.0, 2.0, 0.0]], np.float32)
    order = [1, 2, 4, 0, 3, 5]
    expected = np.zeros(6)
    expected[order[:kept]] = 1
    np.testing.assert_array_equal(topk_mask(scores, kept).numpy().ravel(), expected)


def test_neighbouring_floats_are_distinguished():
    # They differ in the last of their 32 bits, or only in the upper 16.
    base = np.float32(0.1)
    scores = np.array([base, np.nextafter(base, np.float32(1)), base], np.float32)
    np.testing.assert_array_equal(topk_mask(scores, 1), [0, 1, 0])
    np.testing.assert_array_equal(topk_mask(np.array([1.0, 2.0, 1.5], np.float32), 2), [0, 1, 1])


@pytest.mark.parametrize("kept", [0, -1, 5])
def test_impossible_counts_are_refused(kept):
    with pytest.raises(ValueError, match=f"between 1 and 4 can be kept, not {kept}"):
        topk_mask(np.ones((2, 2), np.float32), kept)


@pytest.mark.parametrize(
    ("density", "size", "kept"),
    [(1.0, 7, 7), (0.01, 250, 2), (0.01, 350, 4), (0.5, 3, 2), (1e-9, 10, 1), (0.29, 100, 29)],
)
def test_kept_count_by_hand(density, size, kept):
    assert kept_count(density, size) == kept


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_densities_outside_the_range_are_refused(density):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], not"):
        kept_count(density, 10)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 1), st.integers(1, 10**7))
def test_kept_count_is_the_nearest_possible_number(density, size):
    kept = kept_count(density, size)
    assert 1 <= kept <= size
    assert kept == 1 or abs(kept - density * size) <= 0.5


@pytest.mark.parametrize("size", [1, 7, 300])
def test_one_graph_takes_every_number_of_weights(size):
    scores = np.random.default_rng(size).integers(-3, 4, size).astype(np.float32)
    traces = []

    @tf.function
    def graph(kept):
        traces.append(kept)
        return topk_mask(scores, kept)

    for kept in sorted({1, 2, size // 2, size - 1, size} & set(range(1, size + 1))):
        np.testing.assert_array_equal(graph(tf.constant(kept)), by_sorting(scores, kept))
    assert len(traces) == 1
    for kept in (tf.constant(size, tf.int64), np.int32(size), tf.Variable(size)):
        np.testing.assert_array_equal(topk_mask(scores, kept), np.ones(size))
    for kept in (0, size + 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="between 1 and all weights"):
            graph(tf.constant(kept))
        with pytest.raises(ValueError, match=f"can be kept, not {kept}"):
            topk_mask(scores, tf.constant(kept))


@pytest.mark.parametrize("kept", [2.0, True, "2", tf.constant([1, 2]), tf.constant(1.0)])
def test_kept_must_be_a_whole_number(kept):
    with pytest.raises(TypeError, match="kept must be a whole number or a scalar tensor of one"):
        topk_mask(np.ones(3, np.float32), kept)


@pytest.mark.parametrize("shape", [(1,), (199,), (2, 100), (3, 67), (3, 3, 21, 40)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_kept_weights_are_counted(shape, density):
    mask = np.random.default_rng(0).random(shape) < density
    assert int(count_kept(mask)) == mask.sum()
