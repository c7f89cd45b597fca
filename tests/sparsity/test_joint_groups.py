"""Groups of all layers that compete for one budget, by hand and against a walk down the ranking."""

import functools
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import hydra_tf
from hydra_tf.sparsity import GRANULARITIES, masked_layers, refresh_masks, set_density
from hydra_tf.sparsity.joint_groups import bundles_of, choose_groups
from hydra_tf.sparsity.layer_budgets import layer_densities
from hydra_tf.sparsity.tied_channels import tied_channels
from tests.contracts.sparsity_contract import normal, residual_network

L = keras.layers


def walk(ranks, prices, budget):
    """Take the groups in order of rank, each if the rest of the budget suffices, by a loop."""
    order = sorted(
        (-score, layer, i) for layer, scores in enumerate(ranks) for i, score in enumerate(scores)
    )
    chosen = [np.zeros(len(scores), bool) for scores in ranks]
    for _, layer, i in order:
        if prices[layer] <= budget:
            budget -= prices[layer]
            chosen[layer][i] = True
    return chosen


def bundle(price, ranks):
    return SimpleNamespace(price=price, ranks=lambda one: tf.constant(ranks, tf.float32))


def choices(ranks, prices, budget):
    bundles = [bundle(price, scores) for price, scores in zip(prices, ranks, strict=True)]
    return [np.asarray(own) for own in choose_groups(bundles, budget)]


def test_groups_are_taken_in_order_while_the_budget_suffices():
    # 9 for 4 weights and 8 for 3 leave 3 of 10; 7 for 4 does not fit, 6 for 3 does, 5 for 1 not.
    ranks, prices = [[7.0, 9.0], [8.0, 6.0, 1.0], [5.0, 4.0]], [4, 3, 1]
    chosen = choices(ranks, prices, 10)
    assert [own.tolist() for own in chosen] == [[False, True], [True, True, False], [False, False]]
    # With 12, 7 for 4 fits and leaves 1, which suffices for 5.
    chosen = choices(ranks, prices, 12)
    assert [own.tolist() for own in chosen] == [[True, True], [True, False, False], [True, False]]
    assert all(own.all() for own in choices(ranks, prices, 19))
    assert all(own.all() for own in choices(ranks, prices, 25))


@settings(deadline=None, max_examples=20)
@given(
    prices=st.lists(st.sampled_from([1, 2, 3, 4, 7, 9, 16, 100]), min_size=1, max_size=5),
    share=st.floats(0, 1.1),
    levels=st.sampled_from([2, 50]),
    seed=st.integers(0, 999),
)
def test_choices_are_those_of_a_walk_down_the_ranking(prices, share, levels, seed):
    rng = np.random.default_rng(seed)
    ranks = [rng.integers(0, levels, rng.integers(1, 40)) / 4 for _ in prices]
    budget = max(1, round(share * sum(p * len(r) for p, r in zip(prices, ranks, strict=True))))
    if set(prices) == {1}:  # then every layer keeps its best weight
        budget = max(budget, len(ranks))
        for own in ranks:
            own[own.argmax()] = np.inf
    chosen = choices(ranks, prices, budget)
    for own, expected in zip(chosen, walk(ranks, prices, budget), strict=True):
        np.testing.assert_array_equal(own, expected)


def two_layers():
    """A network of two layers of two filters with two weights each, all weights 1."""
    layers = [L.Dense(2, use_bias=False, name=name, kernel_initializer="ones") for name in "ab"]
    model = hydra_tf.mask_model(keras.Sequential([keras.Input([2]), *layers]))
    for name, means in (("a", [3.0, 1.0]), ("b", [2.0, 1.2])):
        model.get_layer(name).scores.assign([means, means])
    return model


def kept(model):
    """Return which filters each layer keeps; no filter is kept in part."""
    masks = [np.asarray(layer.mask) for layer in masked_layers(model)]
    assert all(np.array_equal(mask.any(0), mask.all(0)) for mask in masks)
    return [np.flatnonzero(mask.any(0)).tolist() for mask in masks]


def test_training_moves_a_filter_from_one_layer_to_another():
    model = two_layers()
    set_density(model, 0.75, "global", "filter:logits=true")  # 6 of 8 weights: 3 filters
    assert kept(model) == [[0], [0, 1]]
    scores = [layer.scores for layer in masked_layers(model)]

    @functools.partial(tf.function, autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(model(tf.ones([1, 2])))
        gradients = tape.gradient(loss, scores)
        for variable, gradient in zip(scores, gradients, strict=True):
            variable.assign_sub(0.25 * gradient)
        refresh_masks(model)
        return gradients

    # The hidden units are 2 and 0. Straight through, both weights of a filter of a have the slope
    # -2, the pruned filter too; those of b have -2 and 0. Means of a grow by 0.5, of b by 0.25.
    slopes = step()
    np.testing.assert_allclose(slopes[0], [[-2, -2], [-2, -2]])
    np.testing.assert_allclose(slopes[1], [[-2, -2], [0, 0]])
    np.testing.assert_allclose(np.mean(scores[0], 0), [3.5, 1.5])
    np.testing.assert_allclose(np.mean(scores[1], 0), [2.25, 1.45])
    assert kept(model) == [[0, 1], [0]]  # 1.5 of a before 1.45 of b
    assert [layer.density for layer in masked_layers(model)] == [1.0, 0.5]


def test_equal_groups_go_to_the_lowest_label():
    model = two_layers()
    for layer in masked_layers(model):
        layer.scores.assign(tf.ones([2, 2]))
    set_density(model, 0.75, "global", "filter:logits=true")
    assert kept(model) == [[0, 1], [0]]


@pytest.fixture(scope="module")
def residual():
    return hydra_tf.mask_model(residual_network())


def randomize(model, seed):
    """Give scores of another scale to each layer."""
    scales = np.random.default_rng(seed).uniform(0.1, 3, len(masked_layers(model)))
    for number, (layer, scale) in enumerate(zip(masked_layers(model), scales, strict=True)):
        layer.scores.assign(scale * normal(layer.scores.shape, 100 * seed + number))


def bundles(model):
    layers = masked_layers(model)
    parts = [GRANULARITIES.build(layer.granularity) for layer in layers]
    selections = [layer.selection for layer in layers]
    return bundles_of(layers, parts, selections, tied_channels(model, parts))


def check_masks(model, budget, floor):
    """Check whole groups, the same in tied layers, floors, budget, and that nothing else fits."""
    spent, smallest = 0, []
    for own in bundles(model):
        one_of = [np.asarray(mask) for mask in own.masks(tf.range(1, own.groups + 1))]
        masks = [np.asarray(layer.mask) for layer in own.layers]
        groups = [{*numbers[mask]} for numbers, mask in zip(one_of, masks, strict=True)]
        assert all(group == groups[0] for group in groups)
        assert not groups[0] & {*one_of[0][~masks[0]]}  # no group in part
        assert len(groups[0]) >= min(floor, own.groups)
        spent += sum(int(mask.sum()) for mask in masks)
        smallest += [own.price] if len(groups[0]) < own.groups else []
    assert spent <= budget
    assert all(budget - spent < price for price in smallest)


GRANULARITY = ["filter", "filter:logits=true", "channel", "kernel", "block:size=2"]


def check_steps(residual, granularity, density, floor, seeds):
    """Choose masks for random scores, several times, and then for the first scores again."""
    budget = round(density * 132)
    randomize(residual, seeds[0])
    densities = layer_densities(residual, density, f"global:min_kept={floor}", granularity)
    set_density(residual, density, f"global:min_kept={floor}", granularity)
    assert [np.mean(layer.mask) for layer in masked_layers(residual)] == pytest.approx(densities)
    first = [np.asarray(layer.mask) for layer in masked_layers(residual)]
    for seed in (*seeds, seeds[0]):
        randomize(residual, seed)
        refresh_masks(residual)
        check_masks(residual, budget, floor)
    # What a step leaves of the budget is not lost: equal scores have equal masks.
    for layer, mask in zip(masked_layers(residual), first, strict=True):
        np.testing.assert_array_equal(layer.mask, mask)


@pytest.mark.parametrize("granularity", ["filter", "kernel"])
def test_what_a_step_leaves_of_the_budget_is_not_lost(residual, granularity):
    check_steps(residual, granularity, 0.7, 1, [1, 2])


@pytest.mark.slow(seconds=60)
@settings(deadline=None, max_examples=30)
@given(
    granularity=st.sampled_from(GRANULARITY),
    density=st.floats(0.78, 1),
    floor=st.integers(1, 2),
    seeds=st.lists(st.integers(0, 99), min_size=2, max_size=3),
)
def test_masks_stay_within_the_budget_and_above_the_floors(
    residual, granularity, density, floor, seeds
):
    check_steps(residual, granularity, density, floor, seeds)


def test_a_smaller_budget_than_the_floors_is_refused(residual):
    # One channel of 31 weights in three layers, and the 8 weights of the logits.
    with pytest.raises(ValueError, match=r"A budget of 38 of 132 .* at least 39, a density"):
        set_density(residual, 0.288, "global", "filter")
    set_density(residual, 0.296, "global", "filter")
    assert [int(layer.kept()) for layer in masked_layers(residual)] == [18, 9, 4, 8]


def test_every_output_keeps_its_best_block():
    model = hydra_tf.mask_model(keras.Sequential([keras.Input([4]), L.Dense(3, name="logits")]))
    scores = np.array([[9, 5, 0.1], [9, 5, 0.2], [8, 6, 0.4], [8, 6, 0.3]], "float32")
    model.layers[0].scores.assign(scores)
    set_density(model, 0.7, "global", "block:size=2")  # 8 of 12 weights
    assert np.asarray(model.layers[0].mask).sum(0).tolist() == [4, 4, 0]
    set_density(model, 0.7, "global:every_output=true", "block:size=2")
    assert np.asarray(model.layers[0].mask).astype(int).tolist() == [
        [1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]
    ]  # fmt: skip


def test_files_store_the_budget_only_if_masks_do_not_tell_it(residual, tmp_path):
    path = tmp_path / "net.weights.h5"

    def stored():
        with h5py.File(path) as file:
            found = []
            file.visititems(lambda name, item: found.append((name, item)))
            return [item[()] for name, item in found if name.endswith("vars/joint_budget")]

    randomize(residual, 0)
    for allocation, granularity in (("uniform", "filter"), ("global", "element")):
        set_density(residual, 0.5, allocation, granularity)
        residual.save_weights(path)
        assert stored() == []  # as in files of older versions
        twin = hydra_tf.mask_model(residual_network())
        twin.load_weights(path)
        assert [int(k.joint_budget.numpy()) for k in masked_layers(twin)] == [0] * 4
    set_density(residual, 0.7, "global", "filter")  # 92.4: two channels of 31 and 8
    residual.save_weights(path)
    assert stored() == [92] * 4
    assert sum(int(layer.kept()) for layer in masked_layers(residual)) == 70
    twin.load_weights(path)
    assert [int(k.joint_budget.numpy()) for k in masked_layers(twin)] == [92] * 4


def test_a_mask_that_is_changed_alone_changes_the_budget():
    model = two_layers()
    set_density(model, 0.9, "global", "filter:logits=true")  # 7 weights: three filters
    model.get_layer("a").density = 1.0
    refresh_masks(model)
    assert kept(model) == [[0, 1], [0, 1]]
    set_density(model, 0.9, "global", "filter:logits=true")
    model.get_layer("b").density = 0.5
    refresh_masks(model)  # four weights: 3 and 2 are the largest means
    assert kept(model) == [[0], [0]]
