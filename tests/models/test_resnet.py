"""Residual networks: published sizes, both stems, strides, projections, masks."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from hydra_tf import models
from hydra_tf.models.zoo.wiring import Wiring


def _trainable(model: keras.Model) -> int:
    return sum(math.prod(w.shape) for w in model.trainable_weights)


@pytest.mark.parametrize(
    ("depth", "published"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)]
)
def test_resnets_have_the_published_size(depth: int, published: int) -> None:
    model = models.build(f"resnet{depth}", (224, 224, 3), 1000, seed=0)
    assert model.name == f"resnet{depth}" and _trainable(model) == published
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    shortcuts = [layer for layer in kernels if layer.name.endswith("shortcut")]
    assert len(kernels) - len(shortcuts) == depth
    assert len(shortcuts) == (4 if depth == 50 else 3)


def test_the_stem_of_small_images_is_a_convolution_of_3x3() -> None:
    """On CIFAR-10 the published size of ResNet-18 is 11,173,962."""
    model = models.build("resnet18", (32, 32, 3), 10, seed=0)
    assert _trainable(model) == 11_173_962
    assert model.get_layer("conv1").kernel.shape == (3, 3, 3, 64)
    assert not any(isinstance(layer, keras.layers.MaxPooling2D) for layer in model.layers)


@pytest.mark.parametrize(
    ("shape", "stem", "sides"),
    [
        ((32, 32), (3, 32), (32, 16, 8, 4)),
        ((64, 64), (3, 64), (64, 32, 16, 8)),
        ((64, 65), (7, 32), (16, 8, 4, 2)),
        ((224, 224), (7, 112), (56, 28, 14, 7)),
    ],
)
@pytest.mark.parametrize("depth", [18, 50])
def test_stages_halve_the_image(
    depth: int, shape: tuple[int, int], stem: tuple[int, int], sides: tuple[int, ...]
) -> None:
    model = models.build(f"resnet{depth}", (*shape, 1), 2)
    conv = model.get_layer("conv1")
    assert (conv.kernel.shape[0], conv.output.shape[1]) == stem
    last = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    heights = [
        model.get_layer(f"stage{stage}_unit{count}_add").output.shape[1]
        for stage, count in enumerate(last, start=1)
    ]
    assert tuple(heights) == sides


def test_a_bottleneck_strides_in_its_3x3_convolution() -> None:
    model = models.build("resnet50", (32, 32, 3), 10)
    strides = [model.get_layer(f"stage2_unit1_conv{i}").strides[0] for i in (1, 2, 3)]
    assert strides == [1, 2, 1]
    assert model.get_layer("stage2_unit1_conv2").kernel.shape == (3, 3, 128, 128)
    assert model.get_layer("stage2_unit1_conv3").kernel.shape == (1, 1, 128, 512)


def test_initial_weights_have_the_reference_standard_deviation() -> None:
    model = models.build("resnet34", (32, 32, 3), 10, seed=0)
    kernel = model.get_layer("stage4_unit2_conv1").kernel.numpy()  # 3x3x512x512
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.gamma.numpy().tolist() == [1.0] * len(layer.gamma.numpy())


@pytest.mark.parametrize(("depth", "last"), [(18, "bn2"), (50, "bn3")])
def test_a_unit_adds_its_input_or_its_projection(depth: int, last: str) -> None:
    """With the last normalisation at 0, a unit applies ReLU to its input."""
    model = models.build(f"resnet{depth}", (16, 16, 1), 2, seed=0)
    for layer in model.layers:
        if layer.name.endswith(last):
            layer.gamma.assign(keras.ops.zeros_like(layer.gamma))
    names = ["stage1_unit1_add", "stage1_unit2_add", "stage2_unit1_shortcut_bn", "stage2_unit1_add"]
    inner = keras.Model(model.input, [model.get_layer(name).output for name in names])
    first, second, projected, third = inner(np.random.RandomState(0).rand(2, 16, 16, 1))
    np.testing.assert_array_equal(keras.ops.relu(first), second)
    np.testing.assert_array_equal(projected, third)


@pytest.mark.parametrize("side", [4, 5, 8, 9])
def test_pooling_windows_are_those_of_symmetric_padding(side: int) -> None:
    images = keras.Input([side, side, 1])
    model = keras.Model(images, Wiring(seed=0).max_pool(images, "pool", size=3, stride=2))
    image = np.random.RandomState(side).rand(side, side).astype(np.float32)
    padded = np.pad(image, 1)
    starts = range(0, side, 2)
    expected = [[padded[r : r + 3, c : c + 3].max() for c in starts] for r in starts]
    result = model.predict_on_batch(image[None, :, :, None])[0, :, :, 0]
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


@pytest.mark.parametrize("shape", [(16, 16, 1), (65, 65, 1)], ids=["small", "photograph"])
def test_masking_and_stripping_keep_outputs(shape: tuple[int, int, int]) -> None:
    model = models.build("resnet18", shape, 3, seed=0)
    images = np.random.RandomState(0).rand(1, *shape).astype(np.float32)
    logits = model.predict_on_batch(images)
    stripped = models.strip_masks(models.mask_model(model))
    np.testing.assert_allclose(stripped.predict_on_batch(images), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "shape", "error", "sentence"),
    [
        ("resnet50:depth=101", (32, 32, 3), TypeError, "one of 18, 34, 50"),
        ("resnet20", (32, 32, 3), ValueError, 'Unknown model "resnet20"; did you mean'),
        ("resnet18", (4, 32, 3), ValueError, "at least 8x8"),
    ],
)
def test_bad_input_raises(
    spec: str, shape: tuple[int, ...], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        models.build(spec, shape, 10)
