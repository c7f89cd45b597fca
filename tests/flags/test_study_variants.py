"""Studies of several networks, objectives and granularities."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from flags.shared import study_variants
from flags.shared.launcher import UsageError
from flags.shared.study_variants import Variant

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--dataset=digits", "--pretrain_epochs=1", "--finetune_epochs=1", "--batch_size=256",
    "--attacks=", "--methods=lwm", "--densities=0.25", "--verbose=0", "--report_samples=0",
]  # fmt: skip


def call(*flags):
    command = [sys.executable, "-m", "flags.study", *SMALL, *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=400)


def chosen(monkeypatch, **lists):
    """Return the variants of flags with these values."""
    values = {**dict.fromkeys(("models", "objectives", "granularities")), "out": "runs", **lists}

    class Flags(dict):
        def __getattr__(self, name):
            return self[name].value

    flags = Flags({name: type("Flag", (), {"value": value}) for name, value in values.items()})
    monkeypatch.setattr(study_variants, "FLAGS", flags)
    return study_variants.variants()


def test_each_combination_has_a_folder_named_after_what_differs(monkeypatch):
    assert chosen(monkeypatch) == [Variant({}, "runs")]
    objectives = "natural,(pgd:epsilon=0.1,steps=2)"
    found = chosen(monkeypatch, objectives=objectives, models="cnn_small", granularities="a,b")
    assert [variant.out for variant in found] == [
        "runs/natural-a", "runs/natural-b",
        "runs/pgd-epsilon-0.1-steps-2-a", "runs/pgd-epsilon-0.1-steps-2-b",
    ]  # fmt: skip
    assert found[2].values == {
        "model": "cnn_small", "objective": "pgd:epsilon=0.1,steps=2", "granularity": "a",
    }  # fmt: skip
    # The command line of one variant has no lists.
    assert found[0].flags() == [
        "--models=", "--objectives=", "--granularities=", "--model=cnn_small",
        "--objective=natural", "--granularity=a", "--out=runs/natural-a",
    ]  # fmt: skip


def test_a_value_that_is_listed_twice_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="list a value twice"):
        chosen(monkeypatch, models="cnn_small,cnn_small")


def test_all_variants_are_checked_before_the_first_is_trained(tmp_path):
    out = tmp_path / "all"
    result = call("--models=mnist_cnn", "--objectives=natural,natura", f"--out={out}")
    assert result.returncode == 2
    assert 'did you mean "natural"' in result.stderr
    assert not list(out.glob("natural/seed*/*"))  # nothing was trained


@pytest.mark.slow(seconds=120)
def test_the_tables_of_all_variants_are_joined(tmp_path):
    out = tmp_path / "all"
    flags = ["--models=mnist_cnn,cnn_small", "--objective=natural", "--jobs=2", "--seeds=2"]
    result = call(*flags, f"--out={out}")
    assert result.returncode == 0, result.stderr
    with open(out / "cells.csv", newline="") as file:
        rows = [(row["model"], row["seed"], row["method"]) for row in csv.DictReader(file)]
    assert rows == [
        (model, seed, method)
        for model in ("mnist_cnn", "cnn_small")
        for seed in ("0", "1")
        for method in ("dense", "lwm")
    ]
    text = (out / "table.md").read_text()
    assert text.count("| 25% | lwm |") == 2 and "## cnn_small" in text
    page = (out / "report.html").read_text()
    assert page.count("<td>25%</td><td>lwm</td>") == 2
    for model in ("mnist_cnn", "cnn_small"):
        assert f'href="{model}/report.html"' in page
        assert (out / model / "report.html").exists()
