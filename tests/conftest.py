import gc
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf
from absl import logging

from tests import time_budget

collect_ignore = ["bounds/make_reference.py"]  # a script, which needs PyTorch


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the option ``--time-budget``."""
    pluginmanager.register(time_budget, "time_budget")


def pytest_configure(config: pytest.Config) -> None:
    """Split the CPU in two logical devices before TensorFlow starts: strategies need them."""
    if not hasattr(config, "workerinput"):
        _write_config_of_art()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    _collect_garbage_less_often()


def _collect_garbage_less_often() -> None:
    """Save time that the garbage collector spends on the many objects of TensorFlow."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _write_config_of_art() -> None:
    """Write the file that ART writes when it is imported: two workers at once would fail."""
    home = pathlib.Path.home()
    folder = (home if os.access(home, os.W_OK) else pathlib.Path("/tmp")) / ".art"
    folder.mkdir(exist_ok=True)
    if not (folder / "config.json").exists():
        content = json.dumps({"ART_DATA_PATH": str(folder / "data")})
        (folder / "config.json").write_text(content, encoding="utf-8")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start each test with the same random state, so that the order of tests changes nothing."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.MirroredStrategy:
    """One strategy for all tests: the collectives of a second one would reuse its keys."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of warnings that were logged."""
    texts: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: texts.append(text % args))
    return texts
