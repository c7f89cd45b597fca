"""The layers of Keras models, the network inside a wrapper, and the functional class."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from hydra_tf.core.lazy import keras


def all_layers(model: Any, in_wrappers: bool = True) -> list[Any]:
    """Return every layer of a model, those of nested models included, each once.

    A layer comes before the layers inside it.

    Args:
        model: a Keras model or layer; for anything else the list is empty.
        in_wrappers: whether to include layers that are attributes of another layer, such as
            those inside TimeDistributed.

    Example:
        >>> inner = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, name="dense")])
        >>> net = keras.Sequential([keras.Input([2]), inner, keras.layers.ReLU(name="relu")])
        >>> [layer.name for layer in all_layers(net) if layer is not inner]
        ['dense', 'relu']
    """
    return list(_walk(model, set(), in_wrappers))


def _walk(model: Any, seen: set[int], in_wrappers: bool) -> Iterator[Any]:
    layers = getattr(model, "layers", None if in_wrappers else ())
    if layers is None:
        attributes = getattr(model, "__dict__", {}).values()
        layers = [value for value in attributes if isinstance(value, keras.layers.Layer)]
    for layer in layers:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            yield from _walk(layer, seen, in_wrappers)


def wrapped_network(model: Any) -> Any:
    """Return the network inside a :class:`hydra_tf.RobustModel`, or the model itself.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> wrapped_network(net) is net
        True
    """
    # A RobustModel is subclassed and has no output shape of its own.
    return model if hasattr(model, "output_shape") else getattr(model, "net", model)


@functools.cache
def functional_class() -> Any:
    """Return the class of functional Keras models, which Keras does not export.

    Example:
        >>> images = keras.Input([2])
        >>> isinstance(keras.Model(images, keras.layers.ReLU()(images)), functional_class())
        True
    """
    images = keras.Input([1])
    return type(keras.Model(images, keras.layers.Identity()(images)))
