"""What is written loads strictly into the PyTorch network, which gives the same logits."""

from __future__ import annotations

import functools
import math
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
import pytest
import torch

import hydra_tf
from hydra_tf import models
from hydra_tf.interop.torch import load_checkpoint, save_checkpoint
from hydra_tf.interop.torch.masks import as_hydra, common_density, hydra_kept
from hydra_tf.sparsity.model import masked_layers
from tests.interop.torch import twins

pytestmark = pytest.mark.torch

# Shapes of images, odd where the network permits.
SHAPES = {
    "vgg16_bn": (33, 47, 3),
    "wrn_28_4": (31, 31, 3),
    "resnet18": (27, 30, 3),
    "mnist_model": (28, 28, 1),
    "cifar_model": (32, 32, 3),
    "mnist_model_large": (28, 28, 1),
    "cifar_model_large": (32, 32, 3),
    "resnet50": (97, 97, 3),
}


@functools.cache
def trained(name: str) -> tuple[keras.Model, np.ndarray]:
    """Return a network with the weights and statistics of a twin, and images for it."""
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "twin.pt")
        torch.save(twins.twin(name).state_dict(), path)
        net = load_checkpoint(path, input_shape=shape)
    return net, twins.images((shape[2], *shape[:2]))


def read_into(
    path: pathlib.Path, name: str, kind: str = "plain", k: float = 1.0, **options: Any
) -> torch.nn.Module:
    """Return the PyTorch network with the tensors of a file, all of which it must have."""
    make, _ = twins.TWINS[name]
    network = make(twins.Layers(kind), **options)
    content = torch.load(path, weights_only=True)
    assert {"epoch", "arch", "state_dict", "best_prec1", "optimizer"} == set(content)
    assert content["arch"] == name
    network.load_state_dict(content["state_dict"], strict=True)
    for _, module in twins.scored_layers(network):
        module.k = k
    return network.eval()


def equal_logits(model: keras.Model, network: torch.nn.Module, x: np.ndarray) -> None:
    """Compare logits, whose order may not be 1 after pruning, relative to their size."""
    expected = np.asarray(model(x, training=False))
    tolerance = 1e-5 * max(1.0, float(expected.std()))
    np.testing.assert_allclose(twins.logits(network, x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_plain_networks_give_the_same_logits_in_pytorch_and_back(
    name: str, tmp_path: pathlib.Path
) -> None:
    net, x = trained(name)
    path = tmp_path / "model.pt"
    assert save_checkpoint(net, path) == 1.0
    equal_logits(net, read_into(path, name), x)
    again = load_checkpoint(path, input_shape=net.input_shape[1:])
    assert again.name == net.name
    for one, other in zip(net.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "resnet50"])
def test_pruned_networks_give_the_same_logits_in_pytorch_and_back(
    name: str, tmp_path: pathlib.Path
) -> None:
    net, x = trained(name)
    masked = hydra_tf.mask_model(net)
    hydra_tf.set_density(masked, 0.05)
    path, dense = tmp_path / "model.pth.tar", tmp_path / "dense.pt"
    k = save_checkpoint(hydra_tf.RobustModel(masked), path)
    assert k == 0.05
    equal_logits(masked, read_into(path, name, "hydra", k), x)
    save_checkpoint(hydra_tf.strip_masks(masked), dense)
    submitted = read_into(dense, name)
    equal_logits(masked, submitted, x)
    zeros = sum(int((p == 0).sum()) for p in submitted.parameters() if p.ndim > 1)
    total = hydra_tf.sparsity.report(masked)["total"]
    assert zeros == total["weights"] - total["kept"]
    again = load_checkpoint(path, density=k, input_shape=net.input_shape[1:])
    np.testing.assert_allclose(again(x), masked(x), rtol=0, atol=1e-5)
    for one, other in zip(masked_layers(masked), masked_layers(again), strict=True):
        # One of two equal scores may have become the next number.
        np.testing.assert_allclose(one.scores, other.scores, rtol=1.2e-7)
        differ = np.asarray(one.mask) != np.asarray(other.mask)
        assert differ.sum() <= 1 and not np.asarray(other.kernel)[differ].any()
        same = ~differ  # pruned weights are written too
        np.testing.assert_array_equal(np.asarray(one.kernel)[same], np.asarray(other.kernel)[same])


@pytest.mark.parametrize(("density", "k"), [(1.0, 1.0), (0.5, 0.5), (0.123, 0.123), (1 / 3, None)])
def test_the_density_of_the_file_is_that_of_the_masks(
    density: float, k: float | None, tmp_path: pathlib.Path
) -> None:
    net, x = trained("mnist_model")
    masked = hydra_tf.mask_model(net)
    hydra_tf.set_density(masked, density)
    found = save_checkpoint(masked, tmp_path / "model.pt")
    assert found == (pytest.approx(density, abs=1e-3) if k is None else k)
    equal_logits(masked, read_into(tmp_path / "model.pt", "mnist_model", "hydra", found), x)


def test_a_file_of_hydra_survives_the_way_there_and_back(tmp_path: pathlib.Path) -> None:
    network = twins.twin("resnet18", "hydra", k=0.01)
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    torch.save(twins.hydra_file(network, "resnet18"), first)
    assert save_checkpoint(load_checkpoint(first, density=0.01), second) == 0.01
    state = torch.load(second, weights_only=True)["state_dict"]
    assert set(state) == set(network.state_dict())
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("sub_block1", [False, True])
def test_the_unused_block_is_written_if_asked_for(
    sub_block1: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = functools.partial(twins.WideResNet, depth=10, width=2)
    monkeypatch.setitem(twins.TWINS, "wrn_10_2", (make, (3, 32, 32)))
    net = models.build("wide_resnet:depth=10,width=2", (32, 32, 3), 10, seed=0)
    masked = hydra_tf.mask_model(net)
    hydra_tf.set_density(masked, 0.5)
    k = save_checkpoint(masked, tmp_path / "a.pt", sub_block1=sub_block1)
    network = read_into(tmp_path / "a.pt", "wrn_10_2", "hydra", k, sub_block1=sub_block1)
    equal_logits(masked, network, twins.images((3, 32, 32)))


def test_equal_scores_do_not_change_which_weights_are_kept() -> None:
    """Sorting in any order keeps what the mask keeps, or weights that were written as 0."""
    rng = np.random.default_rng(0)
    for case in range(200):
        size = int(rng.integers(2, 12))
        scores = rng.choice([0.0, 0.5, -0.5, 1.0, -1.0], size).astype(np.float32)
        kernel = rng.normal(size=size).astype(np.float32)
        kept = int(rng.integers(1, size + 1))
        order = np.argsort(-np.abs(scores), kind="stable")
        mask = np.zeros(size, bool)
        mask[order[: max(1, kept - case % 2)]] = True  # as many as HYDRA, or one fewer
        written, changed = as_hydra(kernel, scores, mask, kept)
        np.testing.assert_allclose(changed, scores, rtol=1e-6, atol=1e-40)
        for _ in range(5):
            shuffled = rng.permutation(size)
            chosen = shuffled[np.argsort(np.abs(changed)[shuffled], kind="stable")][-kept:]
            result = np.zeros(size, np.float32)
            result[chosen] = written[chosen]
            np.testing.assert_array_equal(result, kernel * mask)


def test_weights_change_only_where_hydra_keeps_one_more() -> None:
    scores = np.array([3.0, 2.0, 1.0, 0.5])
    kernel = np.array([1.0, 2.0, 3.0, 4.0])
    mask = np.array([True, True, False, False])
    same = as_hydra(kernel, scores, mask, 2)
    np.testing.assert_array_equal(same, (kernel, scores))
    more = as_hydra(kernel, scores, mask, 3)
    np.testing.assert_array_equal(more, ([1, 2, 0, 4], scores))


@pytest.mark.parametrize("density", [0.9, 0.5, 0.1, 0.05, 0.01, 0.037])
def test_hydra_keeps_as_many_weights_as_we_do_or_one_more(density: float) -> None:
    sizes = [432, 1_728, 2_048, 36_864, 147_456, 2_359_296, 5_120]
    ours = [max(1, round(density * size)) for size in sizes]
    exact = [density * size for size in sizes]
    theirs = [hydra_kept(density, size) for size in sizes]
    assert all(
        math.floor(n) <= kept <= math.ceil(n) + 1 for n, kept in zip(exact, theirs, strict=True)
    )
    assert all(kept - our in (0, 1) for kept, our in zip(theirs, ours, strict=True))
    assert common_density(ours, sizes) == common_density(theirs, sizes) == density


def plain_and_masked() -> keras.Model:
    net, _ = trained("mnist_model")
    return hydra_tf.mask_model(net, exclude="logits")


def erk() -> keras.Model:
    masked = hydra_tf.mask_model(trained("mnist_model")[0])
    hydra_tf.set_density(masked, 0.1, allocation="erk")
    return masked


def stale() -> keras.Model:
    masked = hydra_tf.mask_model(trained("mnist_model")[0])
    hydra_tf.set_density(masked, 0.1)
    layer = masked.get_layer("fc1")
    layer.scores.assign(1 / layer.scores)
    return masked


def others() -> keras.Model:
    return keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])


def photograph_names() -> keras.Model:
    """A network with the layer names of cnn_small and another first kernel."""
    net = keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            keras.layers.Conv2D(16, 3, 2, name="conv1"),
            keras.layers.Conv2D(32, 3, name="conv2"),
            keras.layers.Flatten(),
            keras.layers.Dense(100, name="fc1"),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    return net


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (plain_and_masked, "masks of all layers, but logits of this model have none"),
        (erk, r"one density for all layers, but this model keeps 0\.0\d+ of \w+ and [\d.]+ of"),
        (stale, "fc1 cannot be written: its mask does not keep the weights of the largest scores"),
        (others, "has no counterpart in PyTorch: .* such as cnn_large, cnn_small, resnet18"),
        (photograph_names, "has no counterpart in PyTorch"),
    ],
)
def test_what_hydra_cannot_express_is_refused(
    make: Any, sentence: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        save_checkpoint(make(), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def like_cnn_small(
    activation: str = "relu",
    padding: str = "same",
    images: tuple[int | None, ...] = (8, 8, 1),
    rescaled: bool = False,
    hidden: int = 100,
) -> keras.Model:
    """Return a network with the layer names and kernel sizes of cnn_small."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(images),
            *([layers.Rescaling(2.0, -1.0)] if rescaled else []),
            layers.Conv2D(16, 4, strides=2, padding=padding, activation=activation, name="conv1"),
            layers.Conv2D(32, 4, strides=2, padding="same", activation="relu", name="conv2"),
            layers.Flatten() if images[0] else layers.GlobalAveragePooling2D(),
            layers.Dense(hidden, activation="relu", name="fc1"),
            layers.Dense(10, name="logits"),
        ]
    )


OUTPUTS = r"with the same weights its outputs differ by up to [\d.]+%; only networks of hydra_tf"
SHAPES_DIFFER = "its inputs, weights or outputs have other shapes; only networks of hydra_tf"


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activation": "tanh"}, OUTPUTS),
        ({"activation": "relu6"}, OUTPUTS),  # which differs only above 6
        ({"rescaled": True}, OUTPUTS),
        ({"padding": "valid", "images": (10, 10, 1)}, OUTPUTS),
        ({"hidden": 50}, SHAPES_DIFFER),
        ({"images": (None, None, 1)}, r"input_shape must be .*, not \(None, None, 1\)"),
    ],
)
def test_another_network_with_the_same_names_is_refused(
    changes: Any, reason: str, masked: bool, tmp_path: pathlib.Path
) -> None:
    keras.utils.set_random_seed(0)
    net = like_cnn_small(**changes)
    net = hydra_tf.mask_model(net) if masked else net
    start = r'^The model "\w+" has the layer names of mnist_cnn, but is another network: '
    with pytest.raises(ValueError, match=rf"{start}{reason}.*\.$"):
        save_checkpoint(net, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_another_epsilon_of_batchnorm_is_refused(tmp_path: pathlib.Path) -> None:
    net = models.build("wide_resnet:depth=10,width=1", (8, 8, 3), 10, seed=0)
    save_checkpoint(net, tmp_path / "a.pt")
    net.get_layer("bn1").epsilon = 1e-3
    with pytest.raises(ValueError, match=OUTPUTS):
        save_checkpoint(net, tmp_path / "b.pt")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_networks_in_other_precisions_are_written(policy: str, tmp_path: pathlib.Path) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        net = models.build("wide_resnet:depth=28,width=1", (16, 16, 3), 10, seed=0)
    finally:
        keras.config.set_dtype_policy("float32")
    save_checkpoint(net, tmp_path / "a.pt")
    again = load_checkpoint(tmp_path / "a.pt", input_shape=(16, 16, 3))
    for one, other in zip(net.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float32), other)


def test_a_network_of_nan_is_refused(tmp_path: pathlib.Path) -> None:
    net = models.build("mnist_cnn", (8, 8, 1), 10, seed=0)
    net.get_layer("fc1").bias.assign(np.full(100, np.nan))
    with pytest.raises(ValueError, match="returns NaN or infinite outputs"):
        save_checkpoint(net, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_refused(tmp_path: pathlib.Path) -> None:
    net, _ = trained("mnist_model")
    with pytest.raises(ValueError, match="cnn_small has no sub_block1; only wide"):
        save_checkpoint(net, tmp_path / "a.pt", sub_block1=True)
    with pytest.raises(TypeError, match="Expected a Keras model, not int"):
        save_checkpoint(3, tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        save_checkpoint(net, tmp_path / "missing" / "a.pt")


def test_an_older_file_stays_until_the_new_one_is_complete(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = trained("mnist_model")
    path = tmp_path / "a.pt"
    save_checkpoint(net, path)
    first = path.read_bytes()
    assert str(tmp_path).encode() not in first and b"unfinished" not in first

    def interrupted(content: Any, file: Any) -> None:
        file.write(b"half of the file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(net, path)
    assert path.read_bytes() == first and list(tmp_path.iterdir()) == [path]
