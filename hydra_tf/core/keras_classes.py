"""Keras classes by the names of layers and functions, so that tables need no TensorFlow."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from hydra_tf.core.lazy import keras


@functools.cache
def resolve(target: str | type) -> type:
    """Return the class of layers or operations that a name stands for.

    Args:
        target: ``"layers.Dense"`` for a class of ``keras.layers``; ``"ops.add"`` or
            ``"activations.relu"`` for the operation that this Keras function adds to a
            functional model; or a class, which is returned.

    Example:
        >>> resolve("layers.Dense") is keras.layers.Dense
        True
        >>> resolve("ops.add").__name__
        'Add'
    """
    if isinstance(target, type):
        return target
    namespace, _, name = target.partition(".")
    exported: Any = getattr(getattr(keras, namespace), name)
    if namespace == "layers":
        return exported
    # Keras exports the function, but not the class of operations that it adds to a model.
    tensors = [
        parameter
        for parameter in inspect.signature(exported).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    scalar = keras.Input([1])
    output = exported(*(scalar for _ in tensors))
    return type(keras.Model(scalar, output).operations[-1])
