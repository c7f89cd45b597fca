"""The snippets of docs/pytorch.md run, one after the other."""

from __future__ import annotations

import pathlib
import re

import pytest
import torch

from tests.interop.torch import twins

pytestmark = pytest.mark.torch
PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "pytorch.md"


def test_the_snippets_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, name in (("hydra", "wrn_28_4.pth.tar"), ("plain", "wrn_28_4_dense.pth.tar")):
        torch.save(twins.hydra_file(twins.twin("wrn_28_4", kind, k=0.1), "wrn_28_4"), name)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 3
    names: dict[str, object] = {}
    exec("\n".join(snippets), names)
    assert names["k"] == 0.01
    submission = torch.load("submission.pth", weights_only=True)
    network = twins.WideResNet(twins.Layers())
    network.load_state_dict(submission["state_dict"], strict=True)
    weights = [p for p in network.parameters() if p.ndim > 1]
    kept = sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert kept == pytest.approx(0.01, abs=1e-4)


def test_the_command_saves_the_tensors_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = twins.small(twins.Layers(), 1, 28).state_dict()
    torch.save({"path": pathlib.Path("a"), "state_dict": state}, "old.pt")
    (code,) = re.findall(r"python -c '(.*)'\n", PAGE.read_text())
    exec(code, {})
    assert set(torch.load("new.pt", weights_only=True)) == set(state)
