"""A submission to the Adversarial Pruning Benchmark: weights, distances, accuracies."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

import hydra_tf

pytestmark = pytest.mark.torch
ROOT = Path(__file__).resolve().parents[3]


def call(binary, *flags):
    command = [sys.executable, "-m", f"flags.{binary}", "--verbose=0", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=400)


def test_a_submission_is_about_the_network_of_the_run(tmp_path):
    run, out = tmp_path / "run", tmp_path / "submission"
    trained = call(
        "train", "--dataset=mnist_5k", "--model=cnn_small", "--objective=natural",
        "--method=lwm", "--density=0.25", "--pretrain_epochs=1", "--finetune_epochs=1",
        "--attacks=", f"--out={run}",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    flags = [f"--run={run}", f"--out={out}", "--samples=20", "--epsilon=0.1"]
    made = call("submission", *flags, "--attack=pgd:steps=5", "--distances=fmn:steps=20")
    assert made.returncode == 0, made.stderr

    content = json.loads((out / "submission.json").read_text())
    assert content["architecture"] == "cnn_small" and content["samples"] == 20
    assert abs(content["density"] - 0.25) < 1e-3
    net = keras.saving.load_model(run / "dense.keras")
    data = hydra_tf.data.load("mnist_5k")
    x, y = next(iter(data.test.unbatch().batch(20)))
    correct = np.argmax(net(x), axis=1) == y.numpy()
    assert content["clean_accuracy"] == correct.mean()

    with open(out / "distances.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == y.numpy().tolist()
    distances = np.array([float(row["distance"]) for row in rows])
    np.testing.assert_array_equal(distances == 0, ~correct)
    # The attack of the accuracy breaks no image whose nearest one is far outside its ball.
    assert content["robust_accuracy"] >= np.mean(distances > 0.3) - 1e-9

    weights = torch.load(out / "model.pth", weights_only=True)["state_dict"]
    kernels = [w for name, w in weights.items() if name.endswith("weight")]
    kept = sum(int((w != 0).sum()) for w in kernels) / sum(w.numel() for w in kernels)
    assert abs(kept - 0.25) < 1e-3

    again = call("submission", *flags)
    assert again.returncode == 2 and "is not an empty folder" in again.stderr
