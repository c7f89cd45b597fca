"""TensorFlow Model Optimization (tfmot) and tf_keras, imported without a trace.

tfmot works with Keras 2 (the package ``tf_keras``) only. Imported plainly, it sets the environment
variable ``TF_USE_LEGACY_KERAS`` and can turn ``tf.keras`` into tf_keras for the whole program.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

_VARIABLE = "TF_USE_LEGACY_KERAS"
_lock = threading.RLock()


def import_tf_keras() -> Any:
    """Return the module ``tf_keras``, Keras 2.

    ``keras``, ``tf.keras`` and the environment of the program stay what they are.

    Example:
        >>> import_tf_keras().__version__.startswith("2.")
        True
    """
    return _import("tf_keras")


def import_tfmot() -> Any:
    """Return the module ``tensorflow_model_optimization``.

    ``keras``, ``tf.keras`` and the environment of the program stay what they are, whether they
    were used before or not.

    Example:
        >>> tfmot = import_tfmot()
        >>> schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=0)
        >>> schedule.get_config()["class_name"]
        'ConstantSparsity'
        >>> os.environ.get("TF_USE_LEGACY_KERAS")
    """
    return _import("tensorflow_model_optimization")


def _import(name: str) -> Any:
    # A module that is being imported by another thread is in sys.modules, but not complete.
    with _lock, _legacy_keras():
        return importlib.import_module(name)


@contextlib.contextmanager
def _legacy_keras() -> Iterator[None]:
    """Let TensorFlow's names for Keras stand for tf_keras within this context only.

    Outside of it these names may not have been used yet. TensorFlow then decides at their first use
    which Keras they stand for, so they are put back unused.
    """
    load: Callable[[str], Any] = importlib.import_module
    # tf_keras is loaded first: it imports these modules of TensorFlow again, under these names.
    keras = load("tf_keras")
    legacy = {
        load("tensorflow"): keras,
        load("tensorflow.compat.v2"): keras,
        load("tensorflow.compat.v1"): load("tf_keras.api._v1.keras"),
    }
    before = {module: module.keras for module in legacy}
    variable = os.environ.get(_VARIABLE)
    try:
        for module, keras in legacy.items():
            module.keras = keras
        yield
    finally:
        for module, keras in before.items():
            module.keras = keras
        if variable is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = variable
