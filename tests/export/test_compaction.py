"""Compacted networks: the same outputs, and the numbers of weights worked out by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import hydra_tf
from hydra_tf.export import compact, to_tflite
from tests.export.random_channel_networks import prune_filters, prune_weights, random_network


def relative_error(net: keras.Model, other: keras.Model) -> float:
    images = np.random.default_rng(9).random([4, *net.input_shape[1:]], "float32")
    expected = net(images).numpy()
    return float(np.abs(other(images) - expected).max() / np.abs(expected).max())


def zero_filters(layer: keras.layers.Layer, filters: list[int]) -> None:
    kernel = layer.kernel.numpy()
    kernel[..., filters] = 0
    layer.kernel.assign(kernel)


def set_bias(layer: keras.layers.Layer, values: list[float]) -> None:
    layer.bias.assign(np.array(values, "float32"))


def conv(filters: int, padding: str = "same", **options: object) -> keras.layers.Layer:
    return layers.Conv2D(filters, 3, padding=padding, **options)


def small_net(first: keras.layers.Layer, *others: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input([6, 6, 2]), first, *others, layers.Flatten()])


@pytest.mark.parametrize("seed", [2])
def test_random_networks_keep_their_outputs(seed: int) -> None:
    check_random_network(seed)


@pytest.mark.slow
def test_many_random_networks_keep_their_outputs() -> None:
    for seed in range(60):
        check_random_network(seed)


def check_random_network(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = random_network(seed, blocks=int(rng.integers(2, 9)))
    if seed % 3 != 1:
        prune_filters(net, seed, share=rng.choice([0.3, 0.6, 0.9]))
    if seed % 3 != 0:
        prune_weights(net, seed, density=rng.uniform(0.01, 0.05))
    small = compact(net, fold_batchnorm=seed % 2 == 1)
    assert relative_error(net, small) < 1e-5, seed
    assert small.count_params() <= net.count_params(), seed


def test_the_constant_of_a_dense_unit_becomes_part_of_the_bias() -> None:
    first, last = layers.Dense(4, activation="relu"), layers.Dense(2, use_bias=False)
    net = keras.Sequential([keras.Input([3]), first, last])
    zero_filters(first, [1, 2, 3])
    set_bias(first, [5.0, 2.0, 3.0, -7.0])
    last.kernel.assign([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0], [9.0, 9.0]])
    small = compact(net)
    assert [weight.shape for weight in small.weights] == [(3, 1), (1,), (1, 2), (2,)]
    np.testing.assert_allclose(small.layers[-1].bias, [320.0, 640.0])
    assert relative_error(net, small) < 1e-6


@pytest.mark.parametrize(
    ("padding", "biases", "filters"),
    [
        ("valid", [1.0, 2.0, 3.0], 2),  # part of the biases
        ("same", [0.0, -2.0, -3.0], 2),  # 0 after the ReLU
        ("same", [1.0, 2.0, 3.0], 3),  # one constant channel stands in for all three
        ("zeros", [1.0, 2.0, 3.0], 3),
    ],
)
def test_constants_before_a_padded_convolution(
    padding: str, biases: list[float], filters: int
) -> None:
    first = conv(5, activation="relu")
    padded = (
        [layers.ZeroPadding2D(), conv(4, "valid")] if padding == "zeros" else [conv(4, padding)]
    )
    net = small_net(first, *padded)
    zero_filters(first, [0, 2, 4])
    set_bias(first, [biases[0], 0.1, biases[1], 0.2, biases[2]])
    small = compact(net)
    assert small.count_params() == (2 * 9 + 1) * filters + (filters * 9 + 1) * 4
    assert relative_error(net, small) < 1e-6


def test_constants_pass_through_normalisation_and_same_average_pooling() -> None:
    first = conv(3, use_bias=False)
    norm = layers.BatchNormalization()
    pool = layers.AveragePooling2D(3, strides=2, padding="same")
    net = small_net(first, norm, layers.ReLU(), pool, conv(2, "valid"))
    zero_filters(first, [0])
    norm.set_weights([np.ones(3), np.ones(3), -np.ones(3), np.ones(3)])
    small = compact(net)
    assert [layer.filters for layer in small.layers if hasattr(layer, "filters")] == [2, 2]
    assert relative_error(net, small) < 1e-6


def test_a_normalisation_that_is_scaled_by_zero_makes_its_input_useless() -> None:
    norm = layers.BatchNormalization()
    net = small_net(conv(3), norm, conv(2, "valid"))
    norm.set_weights([np.array([1.0, 0, 0]), np.array([0.0, 1, 2]), np.zeros(3), np.ones(3)])
    small = compact(net)
    assert small.layers[1].filters == 1
    assert relative_error(net, small) < 1e-6


def test_batch_normalisation_becomes_part_of_the_kernel() -> None:
    norm = layers.BatchNormalization()
    net = small_net(conv(3, use_bias=False), norm, layers.ReLU(), layers.DepthwiseConv2D(3))
    net = keras.Sequential([net, layers.Dense(2), layers.BatchNormalization()])
    norm.set_weights([np.array([1.0, -2, 3]), np.ones(3), np.ones(3), np.array([1.0, 4, 9])])
    small = compact(net, fold_batchnorm=True)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in small.layers)
    assert relative_error(net, small) < 1e-5
    kept = sum(isinstance(layer, layers.BatchNormalization) for layer in compact(net).layers)
    assert kept == 2


def test_what_nothing_reads_is_removed_backwards() -> None:
    first, second, last = layers.Dense(5), layers.Dense(3), layers.Dense(2)
    net = keras.Sequential([keras.Input([4]), first, second, last])
    zero = second.kernel.numpy()
    zero[2:, 0] = 0  # units 2 to 4 of the first layer reach only units 1 and 2 of the second
    second.kernel.assign(zero)
    last.kernel.assign(np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]))
    small = compact(net)
    assert small.count_params() == (4 + 1) * 2 + (2 + 1) * 1 + (1 + 1) * 2
    assert relative_error(net, small) < 1e-6


def test_channels_of_a_residual_connection_leave_together() -> None:
    images = keras.Input([6, 6, 2])
    first, second, last = conv(4), conv(4), conv(2)
    x = first(images)
    net = keras.Model(images, last(layers.Add()([x, second(x)])))
    zero_filters(first, [0, 1])
    zero_filters(second, [1, 2])
    small = compact(net)
    assert [layer.filters for layer in small.layers if hasattr(layer, "filters")] == [3, 3, 2]
    assert relative_error(net, small) < 1e-6


def test_a_layer_keeps_one_channel() -> None:
    first = conv(4, use_bias=False)
    net = small_net(first, conv(2))
    zero_filters(first, [0, 1, 2, 3])
    set_bias(net.layers[1], [1.0, 2.0])
    small = compact(net)
    assert small.layers[1].filters == 1
    assert relative_error(net, small) < 1e-6


def test_a_reshape_gets_its_new_size_and_shared_layers_stay_shared() -> None:
    images = keras.Input([6, 6, 2])
    first, shared = conv(4, "valid"), conv(4)
    x = layers.Reshape((16, -1))(shared(shared(first(images))))
    net = keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))
    zero_filters(first, [3])
    zero_filters(shared, [3])
    small = compact(net)
    assert small.count_params() == (2 * 9 + 1) * 3 + (3 * 9 + 1) * 3 + (16 * 3 + 1) * 2
    assert relative_error(net, small) < 1e-6


def test_mnist_cnn_with_a_quarter_of_its_filters() -> None:
    net = hydra_tf.models.build("mnist_cnn", input_shape=(28, 28, 1), num_classes=10)
    assert net.count_params() == 166_406
    kernels = [layer for layer in net.layers if hasattr(layer, "kernel")]
    for layer in kernels[:-1]:
        size = layer.kernel.shape[-1]
        zero_filters(layer, list(range(size // 4, size)))
    small = compact(net)
    convolutions = (16 * 1 + 1) * 4 + (16 * 4 + 1) * 8
    assert small.count_params() == convolutions + (49 * 8 + 1) * 25 + (25 + 1) * 10
    assert relative_error(net, small) < 1e-6


def test_masked_networks_and_nested_names() -> None:
    images = keras.Input([6, 6, 2])
    inner = keras.Sequential([keras.Input([6, 6, 2]), conv(6, name="conv")], name="inner")
    net = keras.Model(images, layers.Flatten()(conv(2, name="conv")(inner(images))))
    masked = hydra_tf.mask_model(net)
    set_bias(masked.layers[2], [1.0, 2.0])
    hydra_tf.set_density(masked, 0.02)
    small = compact(masked)
    assert [layer.name for layer in small.layers if hasattr(layer, "kernel")] == ["conv", "conv_1"]
    assert small.count_params() < net.count_params() / 2
    assert relative_error(masked, small) < 1e-6
    assert type(small) is type(keras.Model(images, images))


def test_layers_without_a_rule_keep_what_is_next_to_them() -> None:
    first = conv(4)
    net = small_net(first, layers.LayerNormalization(), conv(3), conv(2, "valid"))
    zero_filters(first, [0, 1])
    zero_filters(net.layers[2], [0])
    small = compact(net)
    assert [layer.filters for layer in small.layers if hasattr(layer, "filters")] == [4, 2, 2]
    assert relative_error(net, small) < 1e-6


def test_what_cannot_be_compacted_is_refused() -> None:
    images = keras.Input([6, 2])
    dot = layers.Dot(axes=-1, name="product")([images, images])
    with pytest.raises(ValueError, match=r'"product" \(Dot\).*supported are.*Conv2D'):
        compact(keras.Model(images, dot))
    with pytest.raises(ValueError, match="not fixed"):
        compact(keras.Sequential([keras.Input([None, None, 3]), conv(2)]))


def test_a_compact_tflite_file_has_the_same_outputs(tmp_path) -> None:
    first = layers.Dense(64, activation="relu")
    net = keras.Sequential([keras.Input([16]), first, layers.Dense(4)])
    zero_filters(first, list(range(8, 64)))
    path = str(tmp_path / "small.tflite")
    report = to_tflite(net, path, sparse=False, compact=True)
    assert report.bytes < 4 * 16 * 64  # the size of the first kernel
    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    image = np.random.default_rng(0).random([1, 16], "float32")
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(output, net(image), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.75])
@pytest.mark.parametrize(
    "name",
    ["cnn_small", "cnn_large", "vgg16_bn", "resnet18", "resnet50", "wide_resnet:depth=16,width=2"],
)
def test_networks_of_the_zoo_without_most_of_their_filters(name: str, share: float) -> None:
    net = hydra_tf.models.build(name, input_shape=(32, 32, 3), num_classes=10)
    for group in hydra_tf.sparsity.channel_groups(net):
        removed = np.arange(group.size) < share * group.size
        for axis in group.producers if group.removable.all() else ():
            kernel = axis.layer.kernel.numpy()
            np.moveaxis(kernel, axis.axis, 0)[removed[axis.channels]] = 0
            axis.layer.kernel.assign(kernel)
    small = compact(net)
    kept = 1 - share
    assert kept**2 * 0.9 < small.count_params() / net.count_params() < kept**2 * 1.4
    assert relative_error(net, small) < 1e-5
