"""The converter stands behind one module, and its errors have one line."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

from hydra_tf.export.converter import converted

ROOT = Path(__file__).resolve().parents[2]


def attributes(path):
    """Return the names of two parts, such as tf.lite, that a module uses."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def test_one_module_uses_the_converter():
    paths = [path for folder in ("hydra_tf", "flags") for path in (ROOT / folder).rglob("*.py")]
    users = [path.name for path in paths if "tf.lite" in attributes(path)]
    assert users == ["converter.py"]


def test_numbers_of_a_file_follow_the_quantization():
    net = keras.Sequential([keras.Input([64], batch_size=1), keras.layers.Dense(64)])
    images = np.random.default_rng(0).random((8, 64), np.float32)
    sizes = [len(converted(net, how, images)) for how in (None, "float16", "int8")]
    kernel = 64 * 64
    assert 4 * kernel < sizes[0] < 4 * kernel + 4_000
    assert 2 * kernel < sizes[1] < 2 * kernel + 4_000
    assert kernel < sizes[2] < kernel + 4_000


def test_an_error_of_the_converter_has_one_line():
    class Erf(keras.layers.Layer):
        def call(self, x):
            return keras.ops.erfinv(x)

    net = keras.Sequential([keras.Input([4], batch_size=1), Erf()])
    with pytest.raises(RuntimeError, match=r"convert the model to TFLite: .*Erfinv") as error:
        converted(net)
    assert len(str(error.value).splitlines()) == 1
