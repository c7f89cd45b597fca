"""Budgets that cannot be met are refused before anything is trained or written."""

import subprocess
import sys
from pathlib import Path

import pytest

import hydra_tf
from flags.shared.budgets import require_budgets

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--dataset=digits", "--pretrain_epochs=1", "--prune_epochs=1", "--finetune_epochs=1"]


@pytest.mark.parametrize("masked", [False, True])
def test_the_densities_of_all_runs_are_checked(masked):
    net = hydra_tf.models.build("mnist_cnn", input_shape=(8, 8, 1), num_classes=10)
    net = hydra_tf.mask_model(net) if masked else net
    good = {"density": 0.1, "allocation": "erk"}
    require_budgets(net, [good])
    # conv1, conv2, fc1 and the last layer have 22,248 weights; 16 are at least 4 for each layer.
    bad = {"density": 0.0005, "allocation": "global:min_kept=4"}
    with pytest.raises(ValueError, match=r"A budget of 11 of 22248 weights .* at least 16"):
        require_budgets(net, [good, bad])
    rising = {**good, "density_schedule": "linear:initial_density=0.0005", "density": 0.0006}
    with pytest.raises(ValueError, match=r"A budget of 1[13] of 22248 weights"):
        require_budgets(net, [{**rising, "allocation": "global:min_kept=4"}])


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--density=0.0005", "--allocation=global:min_kept=4"],
        ["study", "--densities=0.1,0.0005", "--allocations=erk,(global:min_kept=4)"],
    ],
)
def test_nothing_is_trained(command, tmp_path):
    name, *flags = command
    result = subprocess.run(
        [sys.executable, "-m", f"flags.{name}", *SMALL, *flags, f"--out={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 2
    assert "A budget of 11 of 22248 weights is too small" in result.stderr
    assert not list(tmp_path.glob("**/config.json"))
