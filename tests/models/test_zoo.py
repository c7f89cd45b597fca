"""The zoo: counts against hand formulas and publications, padding, names, errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np
import pytest

from hydra_tf import models
from hydra_tf.models.zoo.wiring import Wiring


def _trainable(model: keras.Model) -> int:
    return sum(math.prod(w.shape) for w in model.trainable_weights)


def _wrn_count(depth: int, width: int, classes: int = 10) -> int:
    """Weights of a wide residual network on images of 3 channels, added up by hand."""
    total, inputs = 27 * 16, 16
    for outputs in (16 * width, 32 * width, 64 * width):
        total += inputs * outputs * (inputs != outputs)  # 1x1 shortcut
        for _ in range((depth - 4) // 6):
            total += 2 * inputs + 9 * inputs * outputs  # bn1, conv1
            total += 2 * outputs + 9 * outputs * outputs  # bn2, conv2
            inputs = outputs
    return total + 2 * inputs + inputs * classes + classes


@pytest.mark.parametrize(
    ("depth", "width", "exact", "millions"),
    [
        (28, 1, 369_498, 0.4),
        (40, 2, 2_243_546, 2.2),
        (28, 4, 5_849_050, 5.8),
        (28, 10, 36_479_194, 36.5),
        (34, 10, 46_160_474, 46.2),
    ],
)
def test_wide_resnets_have_the_published_size(
    depth: int, width: int, exact: int, millions: float
) -> None:
    model = models.build(f"wide_resnet:depth={depth},width={width}", (32, 32, 3), 10, seed=0)
    assert _trainable(model) == _wrn_count(depth, width) == exact
    assert round(exact / 1e6, 1) == millions
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == (
        depth - 4 + 1 + (2 if width == 1 else 3)
    )


@pytest.mark.parametrize(
    ("depth", "convolutions"),
    [
        # Thousands of 3x3 kernels: pairs of channels at the widths 64, 128, 256 and 512.
        (11, 3 * 64 + 64 * 128 + 128 * 256 + 256**2 + 256 * 512 + 3 * 512**2),
        (13, 3 * 64 + 64**2 + 64 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 3 * 512**2),
        (16, 3 * 64 + 64**2 + 64 * 128 + 128**2 + 128 * 256 + 2 * 256**2 + 256 * 512 + 5 * 512**2),
        (19, 3 * 64 + 64**2 + 64 * 128 + 128**2 + 128 * 256 + 3 * 256**2 + 256 * 512 + 7 * 512**2),
    ],
)
def test_vgg_has_the_size_of_the_reference(depth: int, convolutions: int) -> None:
    channels = {11: 2752, 13: 2944, 16: 4224, 19: 5504}[depth]  # of all convolutions together
    head = (4 * 512 + 1) * 256 + 257 * 256 + 257 * 10
    model = models.build(f"vgg{depth}_bn", (32, 32, 3), 10, seed=0)
    assert _trainable(model) == 9 * convolutions + 2 * channels + head
    if depth == 16:
        assert 9 * convolutions + 2 * channels == 14_718_912  # the features of PyTorch's VGG16-BN
        assert _trainable(model) == 15_311_818


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("mnist_cnn", (28, 28, 1), 17 * 16 + 257 * 32 + (7 * 7 * 32 + 1) * 100 + 101 * 10),
        ("cnn_small", (32, 32, 3), 49 * 16 + 257 * 32 + (8 * 8 * 32 + 1) * 100 + 101 * 10),
        (
            "cnn_large",
            (32, 32, 3),
            (28 * 32 + 513 * 32 + 289 * 64 + 1025 * 64)
            + ((8 * 8 * 64 + 1) * 512 + 513 * 512 + 513 * 10),
        ),
    ],
)
def test_small_networks_have_the_size_worked_out_by_hand(
    name: str, shape: tuple[int, ...], count: int
) -> None:
    assert models.build(name, shape, 10).count_params() == count


@pytest.mark.parametrize(("width", "channels"), [(1, (32, 64, 128, 128, 256, 256, 256))])
def test_edge_net_has_the_size_worked_out_by_hand(width: float, channels: tuple[int, ...]) -> None:
    model = models.build(f"edge_net:width={width}", (32, 32, 3), 10)
    count = 27 * channels[0] + 2 * channels[0]
    for inputs, outputs in itertools.pairwise(channels):
        count += 9 * inputs + 2 * inputs + inputs * outputs + 2 * outputs
    assert _trainable(model) == count + 257 * 10


def test_edge_net_is_in_the_pattern_of_sparse_kernels() -> None:
    first, *others = [
        layer
        for layer in models.build("edge_net:width=0.25", (32, 32, 3), 10).layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
    ]
    assert (first.kernel_size, first.strides, first.kernel.shape[2]) == ((3, 3), (2, 2), 3)
    for layer in others:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        assert layer.kernel_size == ((3, 3) if depthwise else (1, 1))


def test_layers_of_one_shape_and_networks_without_a_seed_differ() -> None:
    vgg = models.build("vgg11_bn", (16, 16, 1), 256, seed=0)
    alike = [vgg.get_layer(name).kernel.numpy() for name in ("conv6", "conv7", "conv8")]
    assert not np.array_equal(alike[0], alike[1]) and not np.array_equal(alike[1], alike[2])
    one, other = (models.build("cnn_small", (8, 8, 1), 3).get_layer("fc1") for _ in range(2))
    assert not np.array_equal(one.kernel, other.kernel)


def test_layers_have_stable_names() -> None:
    for _ in range(2):
        small = models.build("cnn_small", (8, 8, 1), 10)
        assert [layer.name for layer in small.layers] == [
            *("images", "conv1", "relu1", "conv2", "relu2", "flatten", "fc1", "relu3", "logits")
        ]
        wide = models.build("wide_resnet:depth=10,width=2", (8, 8, 1), 10)
        kernels = {layer.name for layer in wide.layers if hasattr(layer, "kernel")}
        units = {f"block{block}_unit1_" for block in (1, 2, 3)}
        assert kernels == {"conv1", "logits"} | {
            unit + part for unit in units for part in ("conv1", "conv2", "shortcut")
        }


def test_initial_weights_have_the_reference_standard_deviation() -> None:
    vgg = models.build("vgg16_bn", (32, 32, 3), 10, seed=0)
    kernel = vgg.get_layer("conv5").kernel.numpy()  # 3x3x128x256
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
    assert np.abs(kernel).max() > 3.5 * kernel.std()  # the normal's tail is not cut off
    assert vgg.get_layer("fc1").kernel.numpy().std() == pytest.approx(0.01, rel=0.01)
    small = models.build("cnn_small", (32, 32, 3), 10, seed=0)
    kernel = small.get_layer("fc1").kernel.numpy()  # 2048 x 100
    assert np.abs(kernel).max() == pytest.approx(1 / math.sqrt(2048), rel=0.001)
    for model in (vgg, small):
        for weight in model.weights:
            if weight.name in ("bias", "beta", "moving_mean"):
                assert not weight.numpy().any()
    norm = vgg.get_layer("bn1")
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


def _convolve_by_hand(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Cross-correlation of a square one-channel image with (k - 1) // 2 zeros around it."""
    size, padding = len(kernel), (len(kernel) - 1) // 2
    padded = np.pad(image, padding)
    count = (len(image) + 2 * padding - size) // stride + 1
    starts = [stride * i for i in range(count)]
    return np.array(
        [[(padded[r : r + size, c : c + size] * kernel).sum() for c in starts] for r in starts]
    )


@pytest.mark.parametrize("size", [4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (4, 2)])
def test_windows_are_those_of_symmetric_padding(size: int, kernel: int, stride: int) -> None:
    images = keras.Input([size, size, 1])
    output = Wiring(seed=0).conv(images, "conv", 1, kernel=kernel, stride=stride)
    model = keras.Model(images, output)
    weights = model.get_layer("conv").kernel.numpy()[:, :, 0, 0]
    image = np.random.RandomState(size).rand(size, size).astype(np.float32)
    expected = _convolve_by_hand(image, weights, stride)
    result = model.predict_on_batch(image[None, :, :, None])[0, :, :, 0]
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("side", [16, 28, 32, 48, 64, 80])
def test_vgg_averages_any_image_down_to_quarters(side: int) -> None:
    model = models.build("vgg11_bn", (side, side, 1), 2)
    assert model.get_layer("flatten").output.shape[-1] == (512 if side < 32 else 2048)


def test_a_residual_unit_adds_its_input() -> None:
    """With the second convolutions at 0, the units return their input or its projection."""
    model = models.build("wide_resnet:depth=10,width=1", (8, 8, 1), 2, seed=0)
    for layer in model.layers:
        if layer.name.endswith("_conv2"):
            layer.kernel.assign(keras.ops.zeros_like(layer.kernel))
    inner = keras.Model(
        model.input, [model.get_layer(n).output for n in ("conv1", "block1_unit1_add")]
    )
    first, after = inner(np.random.RandomState(0).rand(2, 8, 8, 1).astype(np.float32))
    np.testing.assert_array_equal(first, after)
    assert "block1_unit1_shortcut" not in [layer.name for layer in model.layers]


def test_a_callable_is_a_network() -> None:
    def mine(input_shape: tuple[int, ...], num_classes: int, seed: int | None) -> keras.Model:
        images = keras.Input(input_shape)
        return keras.Model(images, keras.layers.Dense(num_classes)(images))

    assert models.build(mine, (4,), 3).output_shape == (None, 3)


@pytest.mark.parametrize(
    ("spec", "arguments", "error", "sentence"),
    [
        ("vgg15_bn", {}, ValueError, 'Unknown model "vgg15_bn"; did you mean'),
        ("vgg16_bn:depth=12", {}, TypeError, "one of 11, 13, 16, 19"),
        ("wide_resnet:depth=27", {}, ValueError, "6n \\+ 4"),
        ("wide_resnet:depth=4", {}, ValueError, "6n \\+ 4"),
        ("wide_resnet:width=0", {}, ValueError, "at least 1"),
        ("wide_resnet:widen=4", {}, ValueError, "Unknown parameter of model"),
        ("vgg11_bn", {"input_shape": (8, 32, 3)}, ValueError, "at least 16x16"),
        ("cnn_large", {"input_shape": (3, 3, 1)}, ValueError, "at least 4x4"),
        ("cnn_small", {"input_shape": (28, 28)}, ValueError, r"\(height, width, channels\)"),
        ("cnn_small", {"input_shape": (None, 28, 1)}, ValueError, "each at least 1"),
        ("cnn_small", {"num_classes": 1}, ValueError, "num_classes must be"),
        ("cnn_small", {"seed": 0.5}, TypeError, "seed must be a whole number"),
        (lambda *_: 3, {}, TypeError, "must return a Keras model"),
    ],
)
def test_bad_input_raises(
    spec: Any, arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        models.build(spec, **{"input_shape": (32, 32, 3), "num_classes": 10, **arguments})
