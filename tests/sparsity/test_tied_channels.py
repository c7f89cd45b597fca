"""Channels that several kernels keep or prune together, by hand and after compaction."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.export import compact
from hydra_tf.sparsity import (
    GRANULARITIES,
    channel_groups,
    masked_layers,
    refresh_masks,
    set_density,
)
from hydra_tf.sparsity.budget import whole_groups
from hydra_tf.sparsity.tied_channels import tied_channels
from tests.contracts.sparsity_contract import normal, residual_network

L = keras.layers


def ties_of(model):
    parts = [GRANULARITIES.build(layer.granularity) for layer in masked_layers(model)]
    return tied_channels(model, parts)


def names_of(model):
    return [[kernel.layer.name for kernel in tie.kernels] for tie in ties_of(model)]


def set_scores(model, **of_channels):
    """Give all weights of an output channel one score."""
    for name, values in of_channels.items():
        layer = model.get_layer(name)
        axis = 2 if layer.axes == "ssco" else 3
        along = [1, 1, 1, 1]
        along[axis] = len(values)
        scores = np.broadcast_to(np.reshape(values, along), layer.scores.shape)
        layer.scores.assign(scores.astype("float32"))


def kept_channels(layer, axis=-1):
    mask = np.moveaxis(np.asarray(layer.mask), axis, 0).reshape(layer.mask.shape[axis], -1)
    assert np.array_equal(mask.any(1), mask.all(1)), layer.name  # whole channels
    return np.flatnonzero(mask.any(1)).tolist()


def test_a_residual_block_chooses_channels_by_the_sum_of_the_scores():
    # The stem has 3 * 3 * 2 weights per channel, depthwise 3 * 3, project 1 * 4.
    model = hydra_tf.mask_model(residual_network())
    set_scores(
        model,
        stem=[1.0, 5.0, 1.0, 2.0],  # sums 18, 90, 18, 36
        depthwise=[0.0, 1.0, 20.0, 0.0],  # sums 0, 9, 180, 0: 18, 99, 198, 36
        project=[60.0, 0.0, 0.0, 1.0],  # sums 240, 0, 0, 4: 258, 99, 198, 40
    )
    # 72 + 36 + 16 tied weights, 4 channels of 31, and 8 of the logits, which are kept.
    set_density(model, 0.52, granularity="filter")  # 69 of 132: one channel and the logits
    assert names_of(model) == [["stem", "depthwise", "project"]]
    for name, axis in (("stem", 3), ("depthwise", 2), ("project", 3)):
        assert kept_channels(model.get_layer(name), axis) == [0]
    set_density(model, 0.54, granularity="filter")  # 71: two channels, 2 * 31 + 8
    for name, axis in (("stem", 3), ("depthwise", 2), ("project", 3)):
        assert kept_channels(model.get_layer(name), axis) == [0, 2]
    assert [int(layer.kept()) for layer in masked_layers(model)] == [36, 18, 8, 8]
    assert [layer.density for layer in masked_layers(model)] == [0.5, 0.5, 0.5, 1.0]
    set_scores(model, stem=[0.0, 50.0, 0.0, 40.0])
    refresh_masks(model)
    assert kept_channels(model.get_layer("project")) == [1, 3]


def test_compaction_removes_the_pruned_channels_of_a_residual_block():
    model = hydra_tf.mask_model(residual_network())
    model.get_layer("depthwise").bias.assign(normal([4]))
    set_density(model, 0.54, granularity="filter")
    small = compact(model)
    # Two channels: 3 * 3 * 2 * 2 weights of the stem, 3 * 3 * 2 depthwise, 2 * 2 project and
    # 2 * 2 of the logits; one bias per channel or logit.
    shapes = {layer.name: layer.kernel.shape for layer in small.layers if hasattr(layer, "kernel")}
    assert shapes == {
        "stem": (3, 3, 2, 2), "depthwise": (3, 3, 2, 1), "project": (1, 1, 2, 2), "logits": (2, 2)
    }  # fmt: skip
    assert small.count_params() == 36 + 18 + 4 + 4 + 4 * 2
    images = normal([5, 6, 6, 2])
    np.testing.assert_allclose(small(images), model(images), atol=1e-5)


def test_input_channels_are_tied_among_their_readers():
    # Both convolutions read the four channels of the stem; 9 * 3 and 1 * 5 weights per channel.
    images = keras.Input([6, 6, 2])
    x = L.Conv2D(4, 3, name="stem")(images)
    x = L.Concatenate()([L.Conv2D(3, 3, padding="same", name="a")(x), L.Conv2D(5, 1, name="b")(x)])
    logits = L.Dense(2, name="logits")(L.GlobalAveragePooling2D()(x))
    model = hydra_tf.mask_model(keras.Model(images, logits))
    set_density(model, 0.5, granularity="channel")
    (tie,) = ties_of(model)
    assert ([kernel.layer.name for kernel in tie.kernels], tie.unit) == (["a", "b"], 32)
    kept = kept_channels(model.get_layer("a"), 2)
    assert kept == kept_channels(model.get_layer("b"), 2)
    assert len(kept) == 2
    assert compact(model).get_layer("stem").filters == 2


def test_the_channels_of_all_groups_of_a_convolution_are_tied():
    images = keras.Input([4, 4, 4])
    x = L.Conv2D(6, 1, groups=2, name="grouped")(images)
    model = hydra_tf.mask_model(keras.Model(images, L.Dense(2)(L.GlobalMaxPooling2D()(x))))
    # Channels 0, 1, 2 and 3, 4, 5 are one each, with sums 2 * (3 + 1), 2 * (2 + 3), 2 * (4 + 0).
    set_scores(model, grouped=[3.0, 2.0, 4.0, 1.0, 3.0, 0.0])
    set_density(model, 0.67, granularity="filter")  # 16.08 of 12 + 12: one channel of 4, 12 logits
    assert kept_channels(model.get_layer("grouped")) == [1, 4]


@pytest.mark.parametrize("case", ["unmasked", "output", "concatenated", "subclassed"])
def test_channels_that_cannot_be_removed_are_chosen_layer_by_layer(case):
    images = keras.Input([6, 6, 4])
    both = L.Conv2D(4, 1, name="a")(images), L.Conv2D(4, 1, name="b")(images)
    # A depthwise convolution after a concatenation has channels of two groups.
    concatenated = L.DepthwiseConv2D(3, name="c")(L.Concatenate()(both))
    x = concatenated if case == "concatenated" else L.Add()(both)
    outputs = x if case == "output" else L.Dense(2, name="d")(L.GlobalAveragePooling2D()(x))
    net = Residual() if case == "subclassed" else keras.Model(images, outputs)
    net(np.zeros([1, 6, 6, 4]))
    model = hydra_tf.mask_model(net, exclude=["a"] if case == "unmasked" else None)
    set_density(model, 0.5, granularity="filter:logits=true")
    assert ties_of(model) == []
    for layer in masked_layers(model):
        part = GRANULARITIES.build(layer.granularity)
        alone = part(layer.scores.value, int(layer.kept()), layer.axes)
        np.testing.assert_array_equal(layer.mask, alone)


class Residual(keras.Model):
    """A subclassed model, of which the connections are not known."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b, self.d = L.Conv2D(4, 1), L.Conv2D(4, 1), L.Dense(2)

    def call(self, x):
        return self.d(tf.reduce_mean(self.a(x) + self.b(x), [1, 2]))


def test_multiply_adds_of_tied_layers_stay_within_the_budget():
    # Three channels of 2 + 4 weights, which cost 2 * 10 + 4 * 1; 5 and 8 weights cost 58.
    sizes, units, costs = {"a": 6, "b": 12}, {"a": 2, "b": 4}, {"a": 10, "b": 1}
    counts = {"a": 5, "b": 8}
    assert whole_groups(counts, sizes, units, 58, costs, [["a", "b"]]) == {"a": 4, "b": 8}
    assert whole_groups(counts, sizes, units, 72, costs, [["a", "b"]]) == {"a": 6, "b": 12}
    assert whole_groups(counts, sizes, units, tied=[["a", "b"]]) == {"a": 4, "b": 8}


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("spec", ["resnet18", "wide_resnet:depth=10,width=1"])
@pytest.mark.parametrize("density", [0.5, 0.25])
def test_every_pruned_filter_of_a_residual_network_is_removed(spec, density):
    net = hydra_tf.models.build(spec, input_shape=(32, 32, 3), num_classes=10)
    model = hydra_tf.mask_model(net)
    set_density(model, density, granularity="filter")
    small = compact(model)
    kept = {layer.name: len(kept_channels(layer)) for layer in masked_layers(model)}
    filters = {k.name: k.filters for k in small.layers if isinstance(k, L.Conv2D)}
    assert filters == {name: number for name, number in kept.items() if name in filters}
    assert len(filters) == len(kept) - 1
    for group in channel_groups(model):
        if group.removable.all() and group.producers:
            assert len({tuple(kept_channels(k.layer)) for k in group.producers}) == 1
    images = normal([2, 32, 32, 3])
    expected = model(images).numpy()
    assert np.abs(small(images) - expected).max() < 1e-5 * np.abs(expected).max() + 1e-6
