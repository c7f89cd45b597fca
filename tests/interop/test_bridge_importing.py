"""Importing tfmot through hydra_tf changes neither keras, tf.keras nor the environment."""

import pathlib
import subprocess
import sys

import pytest

from hydra_tf.core.isolated import isolated_command
from hydra_tf.interop.tfmot import import_tf_keras, import_tfmot


@pytest.mark.parametrize(
    "orders",
    [
        ["tf_keras_used_after_tfmot", "tf_keras_used_before_tfmot"],
        pytest.param(["tfmot_before_everything"], marks=pytest.mark.slow(seconds=30)),
        pytest.param(
            ["user_chose_keras_2", "tfmot_cannot_be_imported"], marks=pytest.mark.slow(seconds=30)
        ),
    ],
    ids="-".join,
)
def test_import_leaves_keras_and_the_environment_alone(orders, monkeypatch):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    command = isolated_command("tfmot_import_orders", *orders)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == orders


def test_modules_are_those_that_python_imports():
    assert import_tf_keras() is sys.modules["tf_keras"]
    assert import_tfmot() is sys.modules["tensorflow_model_optimization"]
