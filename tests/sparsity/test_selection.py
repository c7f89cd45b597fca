"""Masks of layers that compete with one another, and weights that are always kept."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import hydra_tf
from hydra_tf.sparsity import masked_layers, refresh_masks, report, set_density
from hydra_tf.sparsity.topk import largest_together, magnitudes

L = keras.layers


def network():
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, name="b"), L.Dense(12, name="a"), L.Dense(4, name="logits")]
    return hydra_tf.mask_model(keras.Sequential([keras.Input([6]), *layers]))


def masks(model):
    return {layer.label: np.asarray(layer.mask) for layer in masked_layers(model)}


def with_scores(model, seed=1, digits=6):
    rng = np.random.default_rng(seed)
    for layer in masked_layers(model):
        layer.scores.assign(rng.normal(size=layer.scores.shape).round(digits))
    return model


def best(model, total, floor=1):
    """The masks by one sort of all scores, the largest `floor` of each layer first."""
    entries = []
    for layer in masked_layers(model):
        values = np.abs(np.asarray(layer.scores)).ravel()
        first = set(np.argsort(-values, kind="stable")[:floor])
        for i, value in enumerate(values):
            entries.append((i not in first, -value, layer.label, i))
    chosen = {layer.label: np.zeros(layer.scores.shape, bool) for layer in masked_layers(model)}
    for _, _, label, i in sorted(entries)[:total]:
        chosen[label].ravel()[i] = True
    return chosen


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_the_largest_of_several_layers_are_those_of_one_sort(sizes, share, seed):
    rng = np.random.default_rng(seed)
    layers = [rng.integers(-4, 5, size).astype("float32") / 4 for size in sizes]
    together = np.abs(np.concatenate(layers))
    kept = 1 + round(share * (together.size - 1))
    expected = np.zeros(together.size, bool)
    expected[np.argsort(-together, kind="stable")[:kept]] = True
    chosen = largest_together([magnitudes(layer) for layer in layers], kept)
    np.testing.assert_array_equal(np.concatenate(chosen), expected)

    # With one of each layer, the largest of each come first.
    kept = max(kept, len(layers))
    starts = np.cumsum([0, *sizes[:-1]])
    first = [start + np.abs(own).argmax() for start, own in zip(starts, layers, strict=True)]
    together[first] = np.inf
    expected[:] = False
    expected[np.argsort(-together, kind="stable")[:kept]] = True
    chosen = largest_together([magnitudes(layer) for layer in layers], kept, one_each=True)
    np.testing.assert_array_equal(np.concatenate(chosen), expected)


def test_one_of_each_layer_is_the_first_of_its_largest_also_in_large_layers():
    layers = [np.full(3_000_000, 0.5, "float32"), np.full(3_000_000, 0.25, "float32")]
    layers[1][[1_234_567, 2_345_678]] = 0.375
    chosen = largest_together([magnitudes(layer) for layer in layers], 3, one_each=True)
    assert [np.flatnonzero(mask).tolist() for mask in chosen] == [[0, 1], [1_234_567]]


@pytest.mark.parametrize("digits", [6, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("floor", [1, 5])
def test_global_masks_are_those_of_one_sort(digits, floor):
    model = with_scores(network(), digits=digits)
    masked_layers(model)[0].scores.assign(1e-3 * masked_layers(model)[0].scores)
    set_density(model, 0.2, f"global:min_kept={floor}")
    expected = best(model, round(0.2 * 192), floor)
    for label, mask in masks(model).items():
        np.testing.assert_array_equal(mask, expected[label])
    assert masks(model)["b"].sum() == floor

    graph = tf.function(lambda: refresh_masks(model))
    for seed in (2, 3):
        graph(), with_scores(model, seed, digits), graph()
        expected = best(model, round(0.2 * 192), floor)
        for label, mask in masks(model).items():
            np.testing.assert_array_equal(mask, expected[label])
    assert masks(model)["b"].sum() > floor


def test_every_output_keeps_a_weight():
    model = with_scores(network())
    logits = masked_layers(model)[-1]
    scores = np.array(logits.scores)
    scores[:, 2] *= 1e-4  # the scores of one class are small
    logits.scores.assign(scores)
    set_density(model, 0.1)
    assert masks(model)["logits"].sum(0)[2] == 0
    for allocation in ("uniform", "erk", "global", "lamp"):
        set_density(model, 0.1, f"{allocation}:every_output=true")
        kept = masks(model)["logits"]
        assert kept.sum(0).min() == 1
        assert kept[np.abs(scores[:, 2]).argmax(), 2]
        assert report(model)["total"]["kept"] == 19
    set_density(model, 0.1)
    assert masks(model)["logits"].sum(0)[2] == 0


def test_a_file_knows_how_masks_are_chosen(tmp_path):
    model = with_scores(network())
    set_density(model, 0.2, "global:min_kept=2,every_output=true")
    model.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras")
    for one in (model, loaded):
        with_scores(one, seed=7)
        refresh_masks(one)
    for label, mask in masks(model).items():
        np.testing.assert_array_equal(masks(loaded)[label], mask)
    set_density(model, 0.2)
    assert "selection" not in model.layers[0].get_config()  # as in files of older versions
    plain = hydra_tf.strip_masks(loaded)
    assert "selection" not in plain.layers[0].get_config()


def test_global_moves_weights_between_layers_while_scores_are_trained(two_replicas):
    def trained(strategy=None):
        x = np.random.default_rng(0).random((64, 6)).astype("float32")
        y = np.arange(64) % 4
        with (strategy or tf.distribute.get_strategy()).scope():
            model = hydra_tf.RobustModel(network(), "natural", seed=1)
            model.compile(keras.optimizers.SGD(1.0))
        counts = []

        class Counts(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                counts.append([int(mask.sum()) for mask in masks(model.net).values()])

        pipeline = hydra_tf.HydraCallback(0.3, 1, 2, 1, allocation="global", schedule=None)
        model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[pipeline, Counts()])
        return counts, masks(model.net)

    counts, chosen = trained()
    pruned = counts[4:]  # after 4 steps of pretraining
    assert {sum(row) for row in pruned} == {round(0.3 * 192)}
    assert len({tuple(row) for row in pruned}) > 1
    assert len({tuple(row) for row in pruned[8:]}) == 1  # in fine-tuning
    replicas, others = trained(two_replicas)
    assert replicas == counts
    for label, mask in chosen.items():
        np.testing.assert_array_equal(others[label], mask)
