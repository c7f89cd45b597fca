"""The snippets of the pages about TFMOT run."""

import pathlib
import re

import keras
import numpy as np
import pytest

import hydra_tf

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def run(page, names):
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    exec("\n".join(snippets), names)
    return names


@pytest.mark.slow(seconds=40)
def test_pruning_and_schedules():
    names = run("tfmot.md", {})
    for model in (names["pruned"], names["model"].net):
        assert hydra_tf.sparsity.report(model)["total"]["density"] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.slow(seconds=40)
def test_quantization(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = keras.Sequential(
        [keras.Input([28, 28, 1]), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model = hydra_tf.mask_model(net)
    hydra_tf.set_density(model, 0.1)
    images = np.random.default_rng(0).random((64, 28, 28, 1)).astype("float32")
    names = run(
        "tfmot_quantization.md", {"model": model, "images": images, "labels": np.arange(64) % 10}
    )
    kernel = names["trained"].layers[-1].kernel.numpy()
    assert (kernel != 0).sum() <= 784
    assert (tmp_path / "net.tflite").stat().st_size > 0
