"""Density and masks of whole models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.sparsity import masked_layers, refresh_masks, report, set_density

L = keras.layers


def two_layers():
    net = keras.Sequential(
        [
            keras.Input([4, 4, 1]),
            L.Conv2D(2, 3, name="conv"),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(5, name="dense"),
        ]
    )
    return hydra_tf.mask_model(net)


def kept(model):
    return {layer.name: int(np.asarray(layer.mask).sum()) for layer in masked_layers(model)}


def test_report_by_hand():
    model = two_layers()  # 3*3*1*2 = 18 and 8*5 = 40 weights
    set_density(model, 0.5)
    assert report(model) == {
        "layers": [
            {
                "name": "conv",
                "shape": [3, 3, 1, 2],
                "masked": True,
                "weights": 18,
                "kept": 9,
                "density": 0.5,
            },
            {
                "name": "dense",
                "shape": [8, 5],
                "masked": True,
                "weights": 40,
                "kept": 20,
                "density": 0.5,
            },
        ],
        "total": {"weights": 58, "kept": 29, "density": 0.5},
    }


@pytest.mark.parametrize(
    ("density", "allocation", "expected"),
    [
        (0.1, "uniform", {"conv": 2, "dense": 4}),
        (20 / 58, {"conv": 1.0, "dense": 0.05}, {"conv": 18, "dense": 2}),
        (20 / 58, {"conv": 1.0}, {"conv": 18, "dense": 2}),
        (13 / 58, lambda scores, density: {"conv": 0.5, "dense": 0.1}, {"conv": 9, "dense": 4}),
    ],
)
def test_allocations_set_the_densities_of_layers(density, allocation, expected):
    model = two_layers()
    set_density(model, density, allocation=allocation)
    assert kept(model) == expected


def test_global_keeps_exactly_the_largest_of_the_network():
    model = two_layers()
    rng = np.random.default_rng(0)
    for layer in masked_layers(model):
        layer.scores.assign(rng.normal(size=layer.scores.shape))
    set_density(model, 0.25, "global")
    scores = np.concatenate([np.abs(layer.scores).ravel() for layer in masked_layers(model)])
    masks = np.concatenate([np.asarray(layer.mask).ravel() for layer in masked_layers(model)])
    assert masks.sum() == round(0.25 * 58) == 14
    assert scores[masks == 1].min() > scores[masks == 0].max()


def test_masks_follow_the_scores_only_when_refreshed():
    model = two_layers()
    set_density(model, 1 / 18)
    conv = masked_layers(model)[0]
    scores = np.zeros(conv.scores.shape)
    scores[2, 1, 0, 1] = -1
    before = np.array(conv.mask)
    conv.scores.assign(scores)
    np.testing.assert_array_equal(conv.mask, before)
    refresh_masks(model)
    np.testing.assert_array_equal(conv.mask, -scores)


def test_nested_and_shared_layers_are_counted_once():
    block = keras.Sequential([keras.Input([6]), L.Dense(6, name="same")], name="block")
    shared = L.Dense(6, name="shared")
    inputs = keras.Input([6])
    hidden = shared(block(shared(inputs)))
    outputs = L.Dense(6, name="same")(block(hidden))
    model = hydra_tf.mask_model(keras.Model(inputs, outputs))
    assert len(masked_layers(model)) == 3
    set_density(model, 0.25)
    assert report(model)["total"] == {"weights": 108, "kept": 27, "density": 0.25}
    # Two layers of one name are distinguished by their position.
    shares = {}
    set_density(model, 0.5, lambda scores, density: shares.update(scores) or uniform(scores))
    names = sorted(name.rpartition("/")[2] for name in shares)
    assert names == ["same", "same", "shared"]


def uniform(scores):
    return dict.fromkeys(scores, 0.5)


def test_layers_without_masks_are_reported_whole():
    inputs = keras.Input([5, 4])
    hidden = L.LSTM(3, name="lstm")(inputs)  # 4*12 + 3*12 = 84
    hidden = L.Reshape([1, 1, 3])(hidden)
    hidden = L.Conv2DTranspose(2, 3, name="up")(hidden)  # 3*3*2*3 = 54
    outputs = L.Dense(4, name="logits")(L.Flatten()(hidden))  # 18*4 = 72
    model = hydra_tf.mask_model(keras.Model(inputs, outputs), exclude=["up", "*recurrent*"])
    set_density(model, 0.5)
    counts = {
        row["name"]: (row["masked"], row["weights"], row["kept"]) for row in report(model)["layers"]
    }
    assert counts == {
        "lstm/cell/kernel": (True, 48, 24),
        "lstm/cell/recurrent_kernel": (False, 36, 36),
        "up": (False, 54, 54),
        "logits": (True, 72, 36),
    }
    assert report(model)["total"]["kept"] == 150
    assert report(model)["layers"][0]["shape"] == [4, 12]


def test_a_model_without_weights_has_density_one():
    inputs = keras.Input([2])
    assert report(keras.Model(inputs, L.ReLU()(inputs))) == {
        "layers": [],
        "total": {"weights": 0, "kept": 0, "density": 1.0},
    }


@pytest.mark.parametrize("density", [0, -1, 1.5, float("nan")])
def test_bad_densities_change_nothing(density):
    model = two_layers()
    set_density(model, 0.5)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        set_density(model, density)
    assert kept(model) == {"conv": 9, "dense": 20}


def test_bad_arguments_change_nothing():
    model = two_layers()
    set_density(model, 0.5)
    with pytest.raises(ValueError, match='"elements"; did you mean "element"'):
        set_density(model, 0.1, granularity="elements")
    with pytest.raises(ValueError, match="names the layers"):
        set_density(model, 0.1, lambda scores, density: {"conv": 0.1})
    with pytest.raises(ValueError, match=r"contradicts density=0\.1"):
        set_density(model, 0.1, {"conv": 1.0})
    assert kept(model) == {"conv": 9, "dense": 20}
    with pytest.raises(ValueError, match=r"no masked layers; call hydra_tf\.mask_model"):
        set_density(keras.Sequential([keras.Input([2]), L.Dense(1)]), 0.5)


def test_loaded_masks_set_the_densities():
    nets = [keras.Sequential([keras.Input([9]), keras.layers.Dense(7)]) for _ in range(2)]
    pruned, other = (hydra_tf.mask_model(net) for net in nets)
    hydra_tf.set_density(pruned, 0.3)
    hydra_tf.set_density(other, 0.9)
    other.set_weights(pruned.get_weights())
    kept = round(0.3 * 63)
    assert other.layers[0].density == kept / 63
    other.layers[0].refresh_mask()
    assert np.array_equal(other.layers[0].mask, pruned.layers[0].mask)
    assert pruned.layers[0].density == 0.3  # unchanged


def test_a_graph_keeps_as_many_weights_as_the_mask_does():
    model = two_layers()
    traces = []

    @tf.function
    def refresh():
        traces.append(model)
        refresh_masks(model)

    rng = np.random.default_rng(0)
    for density in (0.5, 0.1, 1.0, 0.3):
        set_density(model, density)
        for layer in masked_layers(model):
            layer.scores.assign(rng.normal(size=layer.scores.shape))
        refresh()
        for layer in masked_layers(model):
            count = round(density * np.size(layer.mask))
            magnitudes = np.abs(np.asarray(layer.scores))
            assert np.array_equal(layer.mask, magnitudes >= np.sort(magnitudes.ravel())[-count])
            assert layer.density == density
    assert len(traces) == 1


def test_a_layer_has_the_density_of_its_mask():
    dense = masked_layers(two_layers())[1]
    dense.density = 0.25
    assert int(dense.kept()) == np.sum(dense.mask) == 10
    dense.mask.assign(np.arange(40).reshape(8, 5) < 3)
    assert dense.density == dense.get_config()["density"] == 3 / 40
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        dense.density = 0
    assert int(dense.kept()) == 3
    assert tf.function(lambda: dense.density)().numpy() == np.float32(3 / 40)


def test_a_mask_that_keeps_nothing_is_refused():
    model = two_layers()
    conv = masked_layers(model)[0]
    conv.mask.assign(np.zeros(conv.mask.shape, bool))
    with pytest.raises(ValueError, match="Of 18 scores between 1 and 18 can be kept, not 0"):
        conv.refresh_mask()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"set a density in \(0, 1\]"):
        tf.function(conv.refresh_mask)()
