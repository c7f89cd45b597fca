"""Published layouts: logits of the Keras model equal those of the PyTorch network."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import torch

import hydra_tf
from hydra_tf.interop.torch import load_checkpoint
from hydra_tf.sparsity.model import masked_layers
from tests.interop.torch import twins

pytestmark = pytest.mark.torch

# The name of the Keras model, and images of other sizes that the PyTorch network takes too.
KERAS = {
    "vgg16_bn": ("vgg16_bn", [(33, 47), (48, 48), (49, 81)]),
    "wrn_28_4": ("wide_resnet_28_4", [(29, 29), (30, 31)]),
    "resnet18": ("resnet18", [(25, 25), (27, 30)]),
    "mnist_model": ("mnist_cnn", [(29, 31)]),
    "cifar_model": ("cnn_small", [(33, 35)]),
    "mnist_model_large": ("cnn_large", [(29, 31)]),
    "cifar_model_large": ("cnn_large", [(33, 35)]),
    "resnet50": ("resnet50", [(97, 97), (70, 129)]),
}


def saved(content: Any, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "model.pth.tar"
    torch.save(content, path)
    return path


def close(model: keras.Model, network: torch.nn.Module, x: np.ndarray) -> None:
    expected = twins.logits(network, x)
    # The tolerance is absolute, and logits that do not depend on the image would show nothing.
    assert 0.3 < expected.std() < 3 and expected.std(axis=0).mean() > 0.02
    np.testing.assert_allclose(model(x, training=False), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", twins.TWINS)
def test_dense_networks_have_equal_logits_at_even_and_odd_sizes(
    name: str, tmp_path: pathlib.Path
) -> None:
    network = twins.twin(name)
    path = saved(twins.hydra_file(network, name), tmp_path)
    title, sizes = KERAS[name]
    channels, *published = twins.TWINS[name][1]
    if name == "resnet50":
        published = [224, 224]  # as for ImageNet; statistics are those of smaller images
    for size in [tuple(published), *sizes]:
        shape = None if size == tuple(published) else (*size, channels)
        model = load_checkpoint(path, input_shape=shape)
        assert model.name == title and not masked_layers(model)
        assert model.input_shape == (None, *size, channels)
        close(model, network, twins.images((channels, *size), count=2))


@pytest.mark.parametrize("name", twins.TWINS)
def test_masks_of_hydra_keep_the_largest_scores(name: str, tmp_path: pathlib.Path) -> None:
    network = twins.twin(name, "hydra", k=0.1)
    path = saved(twins.hydra_file(network, name), tmp_path)
    channels, height, width = twins.TWINS[name][1]
    model = load_checkpoint(path, density=0.1, input_shape=(height, width, channels))
    close(model, network, twins.images((channels, height, width)))
    layers = masked_layers(model)
    modules = dict(twins.scored_layers(network))
    assert len(layers) == len(modules)
    fitting = {layer.label: _fitting(layer, modules, model) for layer in layers}
    assert sorted(fitting.values()) == sorted(modules)  # each module once
    total = hydra_tf.sparsity.report(model)["total"]
    assert total["density"] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "mnist_model_large"])
def test_the_prefix_of_several_devices_is_left_out(name: str, tmp_path: pathlib.Path) -> None:
    network = twins.twin(name, "hydra", k=0.05)
    path = saved(twins.hydra_file(network, name, parallel=True), tmp_path)
    model = load_checkpoint(path, density=0.05)
    close(model, network, twins.images(twins.TWINS[name][1]))


def _fitting(layer: Any, modules: dict[str, Any], model: keras.Model) -> str:
    """Return the module with the scores of a layer, after comparing weights and mask with it."""
    scores = np.asarray(layer.scores)
    for name, module in modules.items():
        found = _in_keras(module.popup_scores, scores.shape, model)
        if found is None or not np.array_equal(found, scores):
            continue
        order = np.argsort(np.abs(found).ravel())
        mask = np.ones(found.size, bool)
        mask[order[: int((1 - 0.1) * found.size)]] = False
        np.testing.assert_array_equal(np.asarray(layer.mask).ravel(), mask)
        weight = _in_keras(module.weight, scores.shape, model)
        np.testing.assert_array_equal(np.asarray(layer.kernel), weight)
        return name
    raise AssertionError(f"{layer.label} has the scores of no module")


def _in_keras(tensor: Any, shape: tuple[int, ...], model: keras.Model) -> np.ndarray | None:
    """Return a weight of PyTorch as a kernel of a shape, None if it has another one."""
    array = tensor.detach().numpy()
    if array.ndim == 4:
        array = np.moveaxis(array, (0, 1), (3, 2))
    elif array.size == np.prod(shape) and array.shape[::-1] == shape:
        flat = [each for each in model.layers if isinstance(each, keras.layers.Flatten)]
        pixels = flat[0].input.shape[1:] if flat else ()
        if flat and np.prod(pixels) == shape[0]:
            channel_first = array.reshape(len(array), pixels[2], pixels[0], pixels[1])
            array = np.moveaxis(channel_first, 1, -1).reshape(len(array), -1)
        array = array.T
    return array if array.shape == shape else None


@pytest.mark.parametrize("name", twins.TWINS)
def test_in_float64_only_the_last_digits_differ(name: str, tmp_path: pathlib.Path) -> None:
    network = twins.twin(name, "hydra", k=0.05)
    path = saved(twins.hydra_file(network, name), tmp_path)
    channels, *_ = twins.TWINS[name][1]
    size = KERAS[name][1][0]  # odd
    x = twins.images((channels, *size), count=1).astype(np.float64)
    keras.config.set_dtype_policy("float64")
    try:
        model = load_checkpoint(path, density=0.05, input_shape=(*size, channels))
        result = model(x, training=False)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(result, twins.logits(network.double(), x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "cifar_model"])
@pytest.mark.parametrize("density", [0.1, 0.01])
def test_layers_of_harp_have_rates_of_their_own(
    name: str, density: float, tmp_path: pathlib.Path
) -> None:
    network = twins.twin(name, "harp", k=density)
    path = saved(twins.hydra_file(network, name), tmp_path)
    model = load_checkpoint(path, density=density)
    close(model, network, twins.images(twins.TWINS[name][1]))
    kept = sorted(int(np.asarray(layer.mask).sum()) for layer in masked_layers(model))
    expected = [
        int((module.kept_weight() != 0).sum()) for _, module in twins.scored_layers(network)
    ]
    assert kept == sorted(expected)
    assert len({layer.density for layer in masked_layers(model)}) == len(kept)


def test_a_pruned_dense_network_keeps_its_zeros_as_masks(tmp_path: pathlib.Path) -> None:
    network = twins.twin("cifar_model", "hydra", k=0.05)
    dense = twins.small(twins.Layers(), 3, 32).eval()
    state = network.state_dict()
    for name, module in twins.scored_layers(network):
        state[f"{name}.weight"] = module.kept_weight()
        del state[f"{name}.popup_scores"]
    dense.load_state_dict(state, strict=True)
    path = saved(twins.hydra_file(dense, "cifar_model"), tmp_path)
    model = load_checkpoint(path)
    close(model, network, twins.images((3, 32, 32)))
    masked = hydra_tf.mask_model(model, keep_zeros=True)
    close(masked, network, twins.images((3, 32, 32)))
    for layer in masked_layers(masked):
        np.testing.assert_array_equal(np.asarray(layer.mask), np.asarray(layer.kernel) != 0)
    assert hydra_tf.sparsity.report(masked)["total"]["density"] == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("wrap", [dict, lambda state: {"net": state}], ids=["bare", "net"])
def test_the_network_of_robustbench_has_an_unused_block(wrap: Any, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    made = twins.WideResNet(twins.Layers(), depth=16, width=3, sub_block1=True)
    network = twins.settled(made, (3, 32, 32))
    model = load_checkpoint(saved(wrap(network.state_dict()), tmp_path))
    assert model.name == "wide_resnet_16_3"
    close(model, network, twins.images((3, 32, 32)))


def test_the_widest_network_of_hydra(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    made = twins.WideResNet(twins.Layers(), depth=28, width=10, sub_block1=True)
    network = twins.settled(made, (3, 32, 32))
    model = load_checkpoint(saved(twins.hydra_file(network, "wrn_28_10"), tmp_path))
    assert model.name == "wide_resnet_28_10"
    close(model, network, twins.images((3, 32, 32), count=2))


def test_width_1_has_no_projection_in_the_first_block(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    network = twins.settled(twins.WideResNet(twins.Layers(), 10, 1), (3, 32, 32))
    model = load_checkpoint(saved(network.state_dict(), tmp_path))
    assert model.name == "wide_resnet_10_1"
    close(model, network, twins.images((3, 32, 32)))


@pytest.mark.parametrize("classes", [2, 100])
def test_the_number_of_classes_is_that_of_the_file(classes: int, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    network = twins.small(twins.Layers(), 3, 32)
    network[7] = torch.nn.Linear(100, classes)
    twins.settled(network, (3, 32, 32))
    model = load_checkpoint(saved(network.state_dict(), tmp_path), "cnn_small")
    assert model.output_shape == (None, classes)
    close(model, network, twins.images((3, 32, 32)))


def test_files_of_older_versions_and_in_half_precision(tmp_path: pathlib.Path) -> None:
    network = twins.twin("mnist_model").half()
    path = tmp_path / "old.pt"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    close(load_checkpoint(path), network.float(), twins.images((1, 28, 28)))


def test_batch_normalization_is_that_of_pytorch(tmp_path: pathlib.Path) -> None:
    """After a step in training mode, the moving averages are equal too."""
    torch.manual_seed(0)
    network = twins.settled(twins.WideResNet(twins.Layers(), 10, 1), (3, 32, 32))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    model = load_checkpoint(saved(network.state_dict(), tmp_path))
    before = network.bn1.running_var.numpy().copy()
    x = twins.images((3, 32, 32), count=8)
    trained = twins.logits(network.train(), x)
    np.testing.assert_allclose(model(x, training=True), trained, rtol=0, atol=1e-4)
    norm = model.get_layer("bn1")
    np.testing.assert_allclose(norm.moving_mean, network.bn1.running_mean, rtol=0, atol=1e-5)
    # PyTorch divides the variance of the batch of 8 * 8 * 8 values by n - 1, Keras by n.
    batch = 10 * (norm.moving_variance - 0.9 * before)
    expected = 0.9 * before + 0.1 * batch * 512 / 511
    np.testing.assert_allclose(network.bn1.running_var, expected, rtol=1e-5)
