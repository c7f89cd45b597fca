"""Files that do not fit, are damaged or want to execute code: one sentence, nothing executed."""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import pickle
import random
import zipfile
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks._fuzz_files import torch_files
from hydra_tf import models
from hydra_tf.interop.torch import load_checkpoint, loading
from tests.interop.torch import twins

pytestmark = pytest.mark.torch


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


class Evaluate(Touch):
    def __reduce__(self) -> Any:
        return eval, (f"open({self.path!r}, 'w')",)


def zipped(content: Any, path: pathlib.Path) -> None:
    torch.save(content, path)


def old(content: Any, path: pathlib.Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def newer_protocol(content: Any, path: pathlib.Path) -> None:
    torch.save(content, path, pickle_protocol=4)


def plain_pickle(content: Any, path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps(content))


def first_pickle(content: Any, path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [zipped, old, newer_protocol, plain_pickle, first_pickle])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(Touch, r"(posix|nt)\.system"), (Evaluate, r"((builtins|__builtin__)\.)?eval")],
)
def test_a_pickle_that_wants_to_execute_is_refused_by_name(
    write: Any, kind: Any, name: str, tmp_path: pathlib.Path
) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    state = twins.small(twins.Layers(), 1, 28).state_dict()
    write({"arch": kind(trace), "state_dict": state}, path)
    sentence = rf"^\S+evil\.pth is not loaded: it contains {name}, which could execute code; .*\.$"
    with pytest.raises(ValueError, match=sentence):
        load_checkpoint(path)
    assert not trace.exists()
    with path.open("rb") as file:  # the file does what the test says
        if write in (plain_pickle, first_pickle):
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert trace.exists()


def test_classes_are_refused_by_name_too(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "args.pt"
    torch.save({"args": argparse.Namespace(k=0.1), "state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"contains argparse\.Namespace, which could execute code"):
        load_checkpoint(path)
    torch.save(twins.small(twins.Layers(), 1, 28), path)  # a whole network
    with pytest.raises(ValueError, match=r"contains torch\.nn\.modules\.\S+, which could execute"):
        load_checkpoint(path)


@pytest.mark.parametrize("write", [zipped, old])
@pytest.mark.parametrize("left", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(
    write: Any, left: float, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "short.pt"
    write(twins.small(twins.Layers(), 1, 28).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(ValueError, match=r"short\.pt is damaged, or not a PyTorch file: .*\w\.$"):
        load_checkpoint(path)


def test_changed_bytes_are_noticed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "changed.pt"
    torch.save(twins.small(twins.Layers(), 1, 28).state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"changed\.pt is damaged.*the checksum of its \S+ is"):
        load_checkpoint(path)


def test_something_else_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "other.pt"
    with pytest.raises(FileNotFoundError, match=r"other\.pt does not exist\.$"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_checkpoint(tmp_path)
    path.write_text("weights\n" * 50)
    with pytest.raises(ValueError, match="is damaged, or not a PyTorch file"):
        load_checkpoint(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(ValueError, match="TorchScript"):
        load_checkpoint(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ValueError, match="contains a list, not a mapping of names to tensors"):
        load_checkpoint(path)
    torch.save({"epoch": 3, "model": {"a": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match=r"has no state_dict.*its entries are epoch, model"):
        load_checkpoint(path)
    torch.save({}, path)
    with pytest.raises(ValueError, match="its entries are none"):
        load_checkpoint(path)
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(ValueError, match="has tensors that are not arrays"):
        load_checkpoint(path)
    torch.save({"0.weight": torch.zeros(1).expand(10**12, 10)}, path)
    with pytest.raises(ValueError, match="claims to have more values than its size allows"):
        load_checkpoint(path)


def test_a_compressed_file_is_refused_before_it_is_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, path = tmp_path / "stored.pt", tmp_path / "compressed.pt"
    torch.save({"0.weight": torch.zeros(250_000)}, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            method = zipfile.ZIP_DEFLATED if entry.file_size > 10**6 - 1 else zipfile.ZIP_STORED
            target.writestr(entry.filename, source.read(entry), method)
    assert path.stat().st_size < 3_000
    opened: list[str] = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda _, name, *__: opened.append(name))
    sentence = r"^\S+compressed\.pt is damaged, or not a PyTorch file: it is compressed, as .*\.$"
    with pytest.raises(ValueError, match=sentence):
        load_checkpoint(path)
    assert opened == []


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return twins.WideResNet(twins.Layers(), 10, 1).state_dict()


def refusal(content: Any, folder: pathlib.Path, *arguments: Any, **options: Any) -> str:
    torch.save(content, folder / "a.pt")
    with pytest.raises(ValueError, match=r"^[^\n]+[^.]\.$") as caught:
        load_checkpoint(folder / "a.pt", *arguments, **options)
    return str(caught.value).replace(str(folder), "")


def test_what_does_not_fit_is_named(state: Any, tmp_path: pathlib.Path) -> None:
    changed = {**state, "block1.layer.0.conv1.weight": torch.zeros(16, 8, 3, 3)}
    del changed["bn1.bias"]
    changed["extra.weight"] = torch.zeros(5)
    assert refusal({"arch": "wrn_10_1", "state_dict": changed}, tmp_path) == (
        '/a.pt (which calls itself "wrn_10_1") is nearest to wide_resnet:depth=10,width=1, but '
        "does not fit: it has no bn1.bias [64]; block1.layer.0.conv1.weight is [16, 8, 3, 3] "
        "instead of [16, 16, 3, 3]; it also has extra.weight [5]."
    )


def test_the_nearest_architecture_is_named(state: Any, tmp_path: pathlib.Path) -> None:
    text = refusal(state, tmp_path, "vgg11_bn")
    assert text.startswith("/a.pt does not fit vgg11_bn: it has no features.0.weight [64, 3, 3, 3]")
    assert " and 43 more; it also has conv1.weight [16, 3, 3, 3], " in text
    assert text.endswith("; the nearest architecture is wide_resnet:depth=10,width=1.")
    text = refusal(state, tmp_path, "wide_resnet:depth=10,width=2")
    assert "block1.layer.0.conv1.weight is [16, 16, 3, 3] instead of [32, 16, 3, 3]" in text
    with pytest.raises(ValueError, match='Unknown model "wrn_10_1"'):
        load_checkpoint(tmp_path / "a.pt", "wrn_10_1")


def test_another_image_size_does_not_fit_a_dense_layer(tmp_path: pathlib.Path) -> None:
    text = refusal(
        twins.small(twins.Layers(), 1, 28).state_dict(), tmp_path, input_shape=(32, 32, 1)
    )
    assert "5.weight is [100, 1568] instead of [100, 2048]" in text


def test_the_density_is_needed_for_scores_and_for_nothing_else(tmp_path: pathlib.Path) -> None:
    plain = twins.small(twins.Layers(), 1, 28).state_dict()
    scored = twins.small(twins.Layers("hydra"), 1, 28).state_dict()
    assert "not how many weights they keep; pass the density" in refusal(scored, tmp_path)
    assert "has no scores" in refusal(plain, tmp_path, density=0.1)
    for density in (0, 1.5):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            load_checkpoint(tmp_path / "a.pt", density=density)
    del scored["2.popup_scores"]
    assert "it has no 2.popup_scores [32, 16, 4, 4]" in refusal(scored, tmp_path, density=0.1)


def test_rates_of_harp_are_scalars_of_all_layers(tmp_path: pathlib.Path) -> None:
    state = twins.small(twins.Layers("harp"), 1, 28).state_dict()
    del state["5.k_score"]
    state["0.k_score"] = torch.zeros(2)
    text = refusal(state, tmp_path, density=0.1)
    assert "it has no 5.k_score []; 0.k_score is [2] instead of []" in text
    channels = twins.small(twins.Layers("harp"), 1, 28).state_dict()
    channels["2.popup_scores"] = torch.zeros(1, 16, 1, 1)  # pruned by channels
    text = refusal(channels, tmp_path, density=0.1)
    assert "2.popup_scores is [1, 16, 1, 1] instead of [32, 16, 4, 4]" in text


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("7.weight", torch.zeros(5_000_000, 0), "no elements"),
        ("7.weight", torch.full((10, 100), math.nan), "values that are NaN or infinite in float32"),
        ("0.bias", torch.tensor([0.0] * 15 + [-math.inf]), "values that are NaN or infinite"),
        ("0.bias", torch.full((16,), 1e39, dtype=torch.float64), "values that are NaN or infinite"),
        ("2.popup_scores", torch.full((32, 16, 4, 4), math.inf), "values that are NaN or infinite"),
        ("5.k_score", torch.tensor(math.nan), "values that are NaN or infinite in float32"),
        ("2.bias", torch.zeros(32, dtype=torch.complex64), "complex values"),
    ],
)
def test_tensors_that_no_network_has_are_refused_by_name(
    name: str, tensor: torch.Tensor, reason: str, tmp_path: pathlib.Path
) -> None:
    state = {**twins.small(twins.Layers("harp"), 1, 28).state_dict(), name: tensor}
    text = refusal({"state_dict": state}, tmp_path, density=0.1)
    assert text.startswith(f"/a.pt does not contain a network: its '{name}' has {reason}")


@pytest.mark.parametrize(
    "claims",
    [
        {"0.weight": (1, 1, 1, 1), "2.weight": (1, 1, 1, 1), "5.weight": (1, 30_000)},
        {"0.weight": (16, 1, 4, 4), "5.weight": (1, 1), "7.weight": (4_000_000, 1)},
        {"conv1.weight": (1,), "block3.layer.0.conv1.weight": (640_000,), "fc.weight": (1, 1)},
    ],
    ids=["image size", "classes", "width"],
)
def test_a_network_larger_than_the_file_is_refused_before_it_is_built(
    claims: dict[str, tuple[int, ...]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        net = models.build(*arguments, **options)
        made.append(any(hasattr(variable.value.handle, "numpy") for variable in net.variables))
        return net

    monkeypatch.setattr(loading, "build", recorded)
    state = {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in claims.items()}
    assert "does not fit: it has no " in refusal(state, tmp_path)
    assert made == [False]  # no memory for values


@pytest.mark.parametrize("shape", [np.array([28, 28, 1]), [28, 28, np.int64(1)], (28, 28, 1)])
def test_any_sequence_of_three_whole_numbers_is_an_input_shape(
    shape: Any, tmp_path: pathlib.Path
) -> None:
    torch.save(twins.small(twins.Layers(), 1, 28).state_dict(), tmp_path / "a.pt")
    model = load_checkpoint(tmp_path / "a.pt", input_shape=shape)
    assert model.input_shape == (None, 28, 28, 1)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (28, TypeError),
        (np.array(28), TypeError),
        ((), ValueError),
        ((28, 28), ValueError),
        ((28, 28.0, 1), ValueError),
        ((28, 28, True), ValueError),
        (np.array([28.0, 28.0, 1.0]), ValueError),
        ("28x", ValueError),
    ],
)
def test_another_input_shape_is_refused(shape: Any, kind: Any, tmp_path: pathlib.Path) -> None:
    torch.save(twins.small(twins.Layers(), 1, 28).state_dict(), tmp_path / "a.pt")
    sentence = r"^input_shape must be \(height, width, channels\), whole numbers .*, not .*\.$"
    with pytest.raises(kind, match=sentence):
        load_checkpoint(tmp_path / "a.pt", input_shape=shape)


def test_changed_files_give_a_network_or_one_sentence(tmp_path: pathlib.Path) -> None:
    attempt = torch_files(tmp_path)
    outcomes = {attempt(random.Random(f"torch {number}")) for number in range(60)}
    assert "refused" in outcomes
