"""Groups of channels that are tied, worked out by hand for one kind of layer after the other."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import hydra_tf
from hydra_tf.sparsity import channel_groups
from hydra_tf.sparsity.channel_rules import registry


def conv(filters: int, name: str, **options: object) -> keras.layers.Layer:
    return layers.Conv2D(filters, 3, padding="same", name=name, **options)


def groups_by_producer(model: keras.Model) -> dict[str, hydra_tf.sparsity.ChannelGroup]:
    """Return the groups by the sorted names of the layers that make them."""
    found = {}
    for group in channel_groups(model):
        found["+".join(sorted({axis.layer.name for axis in group.producers}))] = group
    return found


def names(axes: tuple[hydra_tf.sparsity.KernelAxis, ...]) -> list[tuple[str, int]]:
    return [(axis.layer.name, axis.axis) for axis in axes]


def images(channels: int = 3) -> keras.KerasTensor:
    return keras.Input([8, 8, channels])


def test_a_chain_has_one_group_for_each_kernel() -> None:
    net = keras.Sequential([images(), conv(4, "a"), layers.BatchNormalization(), layers.ReLU()])
    for layer in (layers.MaxPooling2D(), layers.Flatten(), layers.Dense(5, name="b")):
        net.add(layer)
    net.add(layers.Dense(2, name="c"))
    groups = groups_by_producer(net)
    assert list(groups) == ["", "a", "b", "c"]
    assert [group.size for group in groups.values()] == [3, 4, 5, 2]
    assert [group.is_input for group in groups.values()] == [True, False, False, False]
    assert [group.is_output for group in groups.values()] == [False, False, False, True]
    assert [group.removable.all() for group in groups.values()] == [False, True, True, False]
    assert names(groups["a"].producers) == [("a", 3)]
    assert names(groups["a"].consumers) == [("b", 0)]
    # 4 x 4 positions after pooling, each with 4 channels
    assert groups["a"].consumers[0].channels.tolist() == [0, 1, 2, 3] * 16


@pytest.mark.parametrize(
    "merge", [layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum]
)
def test_residual_connections_tie_their_producers(merge: type) -> None:
    x = images()
    a = conv(4, "a")(x)
    b = conv(4, "b")(layers.ReLU()(a))
    net = keras.Model(x, conv(2, "c")(merge()([a, b])))
    tied = groups_by_producer(net)["a+b"]
    assert tied.size == 4
    assert names(tied.consumers) == [("b", 2), ("c", 2)]


def test_concatenated_channels_stay_in_their_groups() -> None:
    x = images()
    net = keras.Model(x, conv(5, "c")(layers.Concatenate()([conv(2, "a")(x), conv(3, "b")(x)])))
    groups = groups_by_producer(net)
    assert groups["a"].consumers[0].channels.tolist() == [0, 1, -1, -1, -1]
    assert groups["b"].consumers[0].channels.tolist() == [-1, -1, 0, 1, 2]


def test_a_depthwise_convolution_is_a_producer_of_the_same_channels() -> None:
    x = images()
    a = layers.DepthwiseConv2D(3, depth_multiplier=2, name="b")(conv(3, "a")(x))
    groups = groups_by_producer(keras.Model(x, conv(2, "c")(a)))
    assert names(groups["a+b"].producers) == [("a", 3), ("b", 2)]
    assert groups["a+b"].producers[1].channels.tolist() == [0, 1, 2]
    assert groups["a+b"].consumers[0].channels.tolist() == [0, 0, 1, 1, 2, 2]


def test_grouped_convolutions_keep_equally_many_channels_in_each_group() -> None:
    x = images()
    b = conv(6, "b", groups=2)(conv(4, "a")(x))
    groups = groups_by_producer(keras.Model(x, conv(2, "c")(b)))
    assert groups["a"].size == 2 and groups["b"].size == 3
    assert groups["a"].producers[0].channels.tolist() == [0, 1, 0, 1]
    assert groups["a"].consumers[0].channels.tolist() == [0, 1]
    assert groups["b"].producers[0].channels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_shared_layer_ties_all_that_it_is_called_on() -> None:
    x = images()
    shared = conv(3, "shared")
    y = layers.Concatenate()([shared(conv(4, "a")(x)), shared(conv(4, "b")(x))])
    groups = groups_by_producer(keras.Model(x, conv(2, "c")(y)))
    assert groups["a+b"].size == 4
    assert groups["shared"].consumers[0].channels.tolist() == [0, 1, 2] * 2


def test_nested_and_masked_models_are_followed() -> None:
    x = images()
    inner = keras.Sequential([keras.Input([8, 8, 4]), conv(4, "b"), layers.ReLU()])
    a = conv(4, "a")(x)
    net = keras.Model(x, conv(2, "c")(layers.Add()([a, inner(a)])))
    for model in (net, hydra_tf.mask_model(net)):
        assert names(groups_by_producer(model)["a+b"].producers) == [("a", 3), ("b", 3)]


def test_layers_that_cannot_be_followed_keep_their_channels() -> None:
    x = images()
    a = layers.Permute((3, 1, 2))(conv(8, "a")(x))
    b = layers.LayerNormalization()(conv(4, "b")(a))
    c = layers.GlobalAveragePooling2D()(conv(5, "c", activation="softmax")(b))
    groups = groups_by_producer(keras.Model(x, layers.Dense(2, name="d")(c)))
    assert [groups[name].removable.any() for name in "abc"] == [False, False, False]
    assert names(groups["c"].consumers) == [("d", 0)]


def test_reshapes_keep_track_of_channels_or_keep_them() -> None:
    x = images()
    followed = layers.Reshape((4, 16, 6))(conv(6, "a")(x))
    mixed = layers.Reshape((8, 24, 2))(conv(6, "b")(x))
    net = keras.Model(x, [conv(2, "c")(followed), conv(2, "d")(mixed)])
    groups = groups_by_producer(net)
    assert groups["a"].consumers[0].channels.tolist() == [0, 1, 2, 3, 4, 5]
    assert not groups["b"].removable.any()


def test_a_second_output_of_a_layer_is_refused() -> None:
    x = keras.Input([5, 2])
    outputs = layers.LSTM(3, return_state=True, name="states")(x)
    net = keras.Model(x, layers.Dense(2)(outputs[1]))
    with pytest.raises(ValueError, match=r'"states" \(LSTM\) has several outputs'):
        channel_groups(net)


def test_a_rule_is_registered_once() -> None:
    registry.supported_layers()
    with pytest.raises(ValueError, match=r"layers.Dense is already registered"):
        registry.register_channel_rule("layers.Dense")(lambda layer, shapes: None)


@pytest.mark.parametrize(
    "name",
    [
        "cnn_small",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("wide_resnet:depth=10,width=1", marks=pytest.mark.slow),
    ],
)
def test_removing_a_channel_changes_nothing_else(name: str) -> None:
    """Zero slices of one channel in all consumers make all its producers without effect."""
    net = hydra_tf.models.build(name, input_shape=(8, 8, 3), num_classes=4)
    x = np.random.default_rng(0).random([2, 8, 8, 3], "float32")
    group = channel_groups(net)[-2]
    for axis in group.consumers:
        kernel = axis.layer.kernel.numpy()
        np.moveaxis(kernel, axis.axis, 0)[axis.channels == 0] = 0
        axis.layer.kernel.assign(kernel)
    before = net(x).numpy()
    for axis in group.producers:
        kernel = axis.layer.kernel.numpy()
        np.moveaxis(kernel, axis.axis, 0)[axis.channels == 0] += 1
        axis.layer.kernel.assign(kernel)
    np.testing.assert_array_equal(net(x).numpy(), before)
