"""What needs no PyTorch: imports, the sentence without it, names of layers, order of values."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from hydra_tf import models
from hydra_tf.interop.torch import load_checkpoint, save_checkpoint
from hydra_tf.interop.torch.layouts import LAYOUTS, layout_of
from hydra_tf.interop.torch.tensors import Arrangement, tensor_links

ROOT = Path(__file__).resolve().parents[2]


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import sys, hydra_tf.interop, hydra_tf.interop.torch as bridge;"
        "assert bridge.__all__ == ['load_checkpoint', 'save_checkpoint'];"
        "print({'torch', 'tensorflow', 'keras', 'numpy'} & set(sys.modules));"
        "bridge.missing"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "set()\n"
    assert "hydra_tf.interop.torch has no attribute 'missing'." in result.stderr


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (None, r'^PyTorch files need PyTorch: pip install "hydra_tf\[torch\]"\.$'),
        (types.SimpleNamespace(__version__="2.9.1+cpu"), r"2\.9\.1\+cpu does not read .* 2\.10 or"),
    ],
    ids=["missing", "old"],
)
def test_without_a_safe_pytorch_one_sentence_says_what_to_install(
    module: object, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", module)
    path = tmp_path / "net.pt"
    path.write_bytes(b"anything")
    with pytest.raises(ImportError, match=sentence):
        load_checkpoint(path)
    net = models.build("mnist_cnn", (8, 8, 1), 10)
    with pytest.raises(ImportError, match=sentence):
        save_checkpoint(net, tmp_path / "other.pt")
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    ("spec", "side", "expected"),
    [
        # Names in the published files.
        (
            "vgg16_bn",
            32,
            {f"features.{i}" for i in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)}
            | {f"features.{i}" for i in (1, 4, 8, 11, 15, 18, 21, 25, 28, 31, 35, 38, 41)}
            | {"classifier.0", "classifier.2", "classifier.4"},
        ),
        (
            "wide_resnet:depth=28,width=4",
            32,
            {f"block{b}.layer.{i}.{part}{n}"
             for b in (1, 2, 3) for i in range(4) for part in ("bn", "conv") for n in (1, 2)}
            | {f"block{b}.layer.0.convShortcut" for b in (1, 2, 3)} | {"conv1", "bn1", "fc"},
        ),
        (
            "resnet18",
            32,
            {f"layer{s}.{i}.{part}{n}"
             for s in (1, 2, 3, 4) for i in (0, 1) for part in ("bn", "conv") for n in (1, 2)}
            | {f"layer{s}.0.shortcut.{n}" for s in (2, 3, 4) for n in (0, 1)}
            | {"conv1", "bn1", "linear"},
        ),
        ("resnet50", 65, {
            f"layer{s}.{i}.{part}{n}"
            for s, count in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True) for i in range(count)
            for part in ("bn", "conv") for n in (1, 2, 3)}
            | {f"layer{s}.0.downsample.{n}" for s in (1, 2, 3, 4) for n in (0, 1)}
            | {"conv1", "bn1", "fc"}),
        ("cnn_small", 8, {"0", "2", "5", "7"}),
        ("cnn_large", 8, {"0", "2", "4", "6", "9", "11", "13"}),
    ],
)  # fmt: skip
def test_modules_have_the_published_names(spec: str, side: int, expected: set[str]) -> None:
    net = models.build(spec, (side, side, 3), 10, seed=0)
    layout = layout_of(net)
    assert set(layout.modules.values()) == expected
    # Every weight of the network has a tensor.
    assert len(tensor_links(net, layout)) == len(net.weights)
    assert layout.architecture({link.name: link.shape for link in tensor_links(net, layout)}) == (
        spec
    )


def test_no_two_layouts_are_the_same() -> None:
    assert len({tuple(layout.modules.items()) for layout in LAYOUTS}) == len(LAYOUTS)


def test_values_move_to_the_place_where_pytorch_has_them() -> None:
    rng = np.random.default_rng(0)
    convolution = rng.random((3, 2, 5, 4))
    moved = Arrangement((3, 2, 0, 1)).to_torch(convolution)
    assert moved.shape == (4, 5, 3, 2) and moved[3, 1, 2, 0] == convolution[2, 0, 1, 3]
    # Two channels of 3 x 2 pixels: PyTorch has the pixels of a channel side by side.
    dense = rng.random((3 * 2 * 2, 7))
    moved = Arrangement((3, 2, 0, 1), flattened=(3, 2, 2)).to_torch(dense)
    for row, column, channel in np.ndindex(3, 2, 2):
        in_keras, in_torch = (row * 2 + column) * 2 + channel, (channel * 3 + row) * 2 + column
        np.testing.assert_array_equal(moved[:, in_torch], dense[in_keras])


@pytest.mark.parametrize(
    ("arrangement", "shape"),
    [
        (Arrangement((0,)), (5,)),
        (Arrangement((1, 0)), (5, 3)),
        (Arrangement((3, 2, 0, 1)), (3, 2, 5, 4)),
        (Arrangement((3, 2, 0, 1), (2, 3, 4)), (24, 5)),
    ],
)
def test_the_way_back_is_the_inverse(arrangement: Arrangement, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape)
    moved = arrangement.to_torch(array)
    np.testing.assert_array_equal(arrangement.to_keras(moved), array)
    assert arrangement.torch_shape(shape) == moved.shape
