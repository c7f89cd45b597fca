"""Every recipe of flags/recipes makes steps of all its phases on small data."""

import subprocess
import sys
from pathlib import Path

import pytest

import hydra_tf
from tests.data import files

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(ROOT.glob("flags/recipes/*.flags"))
# Those of networks that need a GPU, and data that must be prepared first.
LARGE = [path for path in RECIPES if not path.name.startswith("mnist_5k")]


def flags_of(path):
    """Return the flags of a recipe by their names."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    return dict(line[2:].split("=", 1) for line in lines)


def test_the_published_rows_have_recipes():
    assert {path.stem for path in LARGE} == {
        "cifar10_trades", "svhn_trades", "cifar10_smoothing", "svhn_smoothing",
        "cifar10_mixtrain", "cifar10_crown_ibp", "imagenet_free",
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_it_is_used(path):
    text = path.read_text()
    assert f"--flagfile=flags/recipes/{path.name}" in text
    assert all(line.startswith(("#", "--")) for line in text.splitlines())
    assert path.name.startswith(flags_of(path)["dataset"] + "_")


@pytest.mark.slow(seconds=40)
def test_the_networks_of_large_recipes_can_be_built():
    sides = {"imagenet": 224}
    for name, dataset in {(flags_of(p)["model"], flags_of(p)["dataset"]) for p in LARGE}:
        side = sides.get(dataset, 32)
        net = hydra_tf.models.build(name, input_shape=(side, side, 3), num_classes=10)
        assert net.output_shape == (None, 10)


@pytest.mark.slow(seconds=90)
@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_a_large_recipe_makes_steps_on_small_data(path, tmp_path):
    flags = flags_of(path)
    changes = [f"--dataset={files.write(flags['dataset'], tmp_path)}", "--batch_size=8"]
    changes.append("--model=cnn_small")
    result = subprocess.run(
        [sys.executable, "-m", "flags.train", f"--flagfile={path}", *changes, "--dry_run",
         "--density=0.01", f"--out={tmp_path / 'run'}"],
        capture_output=True, text=True, cwd=ROOT, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    for phase in ("pretrain", "prune", "finetune"):
        assert f"{phase}: {flags[f'{phase}_epochs']} epochs" in result.stdout
    assert flags["objective"] in result.stdout
    assert not (tmp_path / "run").exists()
