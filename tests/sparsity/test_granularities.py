"""Groups of weights, by hand and in networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.sparsity import GRANULARITIES, masked_layers, refresh_masks, report, set_density
from hydra_tf.sparsity.budget import whole_groups
from hydra_tf.sparsity.granularity import granularity_name
from hydra_tf.sparsity.kernel_weights import kernel_axes, kernel_weights
from hydra_tf.sparsity.model import layer_densities
from hydra_tf.sparsity.tied_channels import tied_channels
from tests.contracts.sparsity_contract import density_of, normal

L = keras.layers


def network():
    """Return a network of two convolutions and two dense layers."""
    layers = [L.Conv2D(4, 3), L.Conv2D(8, 3), L.Flatten(), L.Dense(12), L.Dense(10)]
    return hydra_tf.mask_model(keras.Sequential([keras.Input([8, 8, 3]), *layers]))


SCORES = tf.constant([[1.0, -2.0], [-3.0, 0.5], [0.1, 4.0], [0.2, 0.0]])


@pytest.mark.parametrize(
    ("spec", "kept", "expected"),
    [
        ("block:size=2", 4, [[1, 0], [1, 0], [0, 1], [0, 1]]),  # sums 4, 0.3 | 2.5, 4
        ("block:size=2", 7, [[1, 1], [1, 1], [0, 1], [0, 1]]),
        ("filter", 4, [[0, 1], [0, 1], [0, 1], [0, 1]]),  # sums 4.3, 6.5
        ("filter", 1, [[0, 1], [0, 1], [0, 1], [0, 1]]),  # at least one group
        ("channel", 5, [[0, 0], [1, 1], [1, 1], [0, 0]]),  # sums 3, 3.5, 4.1, 0.2
        ("kernel", 2, [[0, 0], [1, 0], [0, 1], [0, 0]]),
        ("n_m:n=1,m=4", 2, [[0, 0], [1, 0], [0, 1], [0, 0]]),
        ("n_m:n=1,m=2", 4, [[0, 1], [1, 0], [0, 1], [1, 0]]),
        ("n_m:n=2,m=3", 6, [[1, 1], [1, 0], [0, 1], [1, 1]]),  # the last group has one input
    ],
)
def test_masks_by_hand(spec, kept, expected):
    mask = GRANULARITIES.build(spec)(SCORES, kept)
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def test_blocks_of_a_convolution_are_input_channels_at_one_position():
    scores = normal((1, 2, 4, 1))
    mask = np.asarray(GRANULARITIES.build("block:size=2")(tf.constant(scores), 2))
    sums = np.abs(scores).reshape(2, 2, 2).sum(-1)
    best = np.unravel_index(sums.argmax(), sums.shape)
    expected = np.zeros((2, 2, 2), bool)
    expected[best] = True
    np.testing.assert_array_equal(mask.reshape(2, 2, 2), expected)


@pytest.mark.parametrize(
    ("layer", "shape", "axes", "fan_in"),
    [
        (L.Dense(3), (None, 4), "io", 4),
        (L.Conv1D(3, 5), (None, 8, 4), "sio", 20),
        (L.DepthwiseConv2D(3, depth_multiplier=2), (None, 8, 8, 4), "ssco", 9),
        (L.Conv2DTranspose(3, 5), (None, 8, 8, 4), "ssoi", 100),
        (L.EinsumDense("abc,bcd->ad", [7]), (None, 2, 3), "iio", 6),
    ],
)
def test_axes_of_kernels(layer, shape, axes, fan_in):
    layer.build(shape)
    assert kernel_axes(layer, layer.kernel) == axes
    assert [weight.fan_in for weight in kernel_weights(layer)] == [fan_in]


def test_n_m_against_a_sort():
    for axes, shape in (("io", (13, 5)), ("ssio", (2, 3, 8, 4)), ("soi", (2, 4, 6))):
        scores = normal(shape)
        part = GRANULARITIES.build("n_m:n=2,m=4")
        mask = part(tf.constant(scores), part.fixed_kept(shape, axes), axes)
        rows = np.moveaxis(np.asarray(mask), axes.rindex("i"), -1)
        values = np.moveaxis(np.abs(scores), axes.rindex("i"), -1)
        for index in np.ndindex(*rows.shape[:-1]):
            for start in range(0, rows.shape[-1], 4):
                group, own = rows[index][start : start + 4], values[index][start : start + 4]
                assert set(np.flatnonzero(group)) == set(np.argsort(-own)[:2])


def test_n_m_refuses_other_densities_and_allocations():
    model = network()
    with pytest.raises(ValueError, match=r"has the density 0\.5, not 0\.1; choose this density"):
        set_density(model, 0.1, granularity="n_m")
    with pytest.raises(ValueError, match="fixes the density of every layer; use the allocation"):
        set_density(model, 0.5, "erk", "n_m")
    with pytest.raises(ValueError, match=r"keeps 4 of the 8 weights .* or all of them, not 3"):
        GRANULARITIES.build("n_m")(SCORES, 3)
    with pytest.raises(ValueError, match="with n from 1 to m - 1, not n=4 and m=4"):
        GRANULARITIES.build("n_m:n=4")
    with pytest.raises(ValueError, match="at least 1 weight, not size=0"):
        GRANULARITIES.build("block:size=0")
    with pytest.raises(ValueError, match=r"A budget of .* is too small"):
        set_density(model, 0.01, granularity="filter")


@pytest.mark.parametrize("name", GRANULARITIES.names())
def test_networks_keep_whole_groups_within_the_budget(name):
    part = GRANULARITIES.build(name)
    model = network()
    size = report(model)["total"]["weights"]
    density = density_of(part)
    allocations = ["uniform"] if hasattr(part, "n") else ["uniform", "erk", "lamp", "global"]
    for allocation in allocations:
        set_density(model, density, allocation, name)
        counts = [int(layer.kept()) for layer in masked_layers(model)]
        if not hasattr(part, "n"):
            own = [GRANULARITIES.build(k.granularity) for k in masked_layers(model)]
            units = [
                p.unit(k.kernel.shape, k.axes)
                for p, k in zip(own, masked_layers(model), strict=True)
            ]
            if name == "channel":  # after Flatten, a channel is at 16 positions
                assert [tie.unit for tie in tied_channels(model, own)] == [16 * 12]
                units[2] = 16 * 12
            assert sum(counts) <= round(density * size)
            smallest = [
                u for u, n, k in zip(units, counts, masked_layers(model), strict=True)
                if n < np.prod(k.kernel.shape)
            ]  # fmt: skip
            left = round(density * size) - sum(counts)
            assert all(left < unit for unit in smallest), (allocation, counts)
        masks = [np.asarray(layer.mask) for layer in masked_layers(model)]
        refresh_masks(model)
        for layer, mask in zip(masked_layers(model), masks, strict=True):
            np.testing.assert_array_equal(layer.mask, mask)
            layer.scores.assign(normal(layer.scores.shape, 7))
        refresh_masks(model)
        again = [int(layer.kept()) for layer in masked_layers(model)]
        assert again == counts or (allocation == "global" and sum(again) <= density * size)
    densities = layer_densities(model, density, allocations[-1], name)
    assert all(0 < share <= 1 for share in densities)


def test_the_last_layer_keeps_its_outputs_unless_asked():
    model = network()
    set_density(model, 0.5, granularity="filter")
    last = masked_layers(model)[-1]
    assert last.granularity == "layer" and np.asarray(last.mask).all()
    rows = {row["name"]: row.get("group") for row in report(model)["layers"]}
    assert list(rows.values()) == [[3, 3, 3, 1], [3, 3, 4, 1], [128, 1], [12, 10]]
    set_density(model, 0.5, granularity="filter:logits=true")
    assert int(np.asarray(last.mask).any(0).sum()) < 10


def test_a_hidden_layer_is_not_the_last_one_because_the_logits_have_no_mask():
    layers = [keras.layers.Dense(8), keras.layers.Dense(3, name="logits")]
    net = keras.Sequential([keras.Input([4]), *layers])
    masked = hydra_tf.mask_model(net, exclude=["logits"])
    hydra_tf.set_density(masked, 0.5, "uniform:every_output=true", "filter")
    (hidden,) = masked_layers(masked)
    assert sorted(np.sum(hidden.mask, axis=0)) == [0, 0, 0, 0, 4, 4, 4, 4]
    hydra_tf.set_density(masked, 1 / 32, "global:every_output=true")
    assert int(np.sum(hidden.mask)) == 1


def test_a_number_of_weights_is_rounded_down_in_a_graph():
    layer = masked_layers(network())[1]
    layer.granularity = "filter"
    choose = tf.function(layer.refresh_mask)
    for kept, expected in ((1, 36), (72, 72), (107, 72), (288, 288)):
        assert int(np.sum(choose(tf.constant(kept)))) == expected


def test_scores_of_pruned_groups_have_gradients():
    model = network()
    set_density(model, 0.5, granularity="filter")
    conv = masked_layers(model)[0]
    assert not np.asarray(conv.mask).all()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(normal((2, 8, 8, 3))) ** 2)
    assert (
        np.count_nonzero(tape.gradient(loss, conv.scores.value)) == conv.scores.shape.num_elements()
    )


def test_specs_become_strings_in_configs_and_files(tmp_path):
    part = GRANULARITIES.build("block:size=2")
    for spec in ("block:size=2", {"name": "block", "size": 2}, part):
        assert granularity_name(spec) == "block:size=2"
    model = network()
    set_density(model, 0.5, granularity=part)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for layer, twin in zip(masked_layers(model), masked_layers(loaded), strict=True):
        assert twin.granularity == "block:size=2"
        np.testing.assert_array_equal(layer.mask, twin.mask)
    with pytest.raises(ValueError, match='Unknown parameter of granularity "block": "sise"'):
        set_density(model, 0.5, granularity="block:sise=2")


def test_what_is_left_of_a_budget_goes_to_the_largest_remainders():
    sizes = dict.fromkeys("abc", 12)
    units = {"a": 4, "b": 3, "c": 2}
    # Rounded down: 4, 3, 4 of 5, 5, 5; the remainders are 1/4, 2/3 and 1/2 of a group.
    assert whole_groups({"a": 5, "b": 5, "c": 5}, sizes, units, 15) == {"a": 4, "b": 6, "c": 4}
    assert whole_groups({"a": 5, "b": 5, "c": 5}, sizes, units) == {"a": 4, "b": 3, "c": 4}
