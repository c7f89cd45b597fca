"""The layers of Keras models, the network inside a wrapper, and the functional class."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from hydra_tf.core.lazy import keras


def all_layers(model: Any, in_wrappers: bool = True) -> list[Any]:
    """Return every layer of a model, those of nested models included, each once.

    A layer comes before the layers inside it.

    Args:
        model: a Keras model or layer; for anything else the list is empty.
        in_wrappers: whether to include layers that are attributes of another layer, or in its
            lists and dictionaries, such as those inside TimeDistributed.

    Example:
        >>> inner = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, name="dense")])
        >>> net = keras.Sequential([keras.Input([2]), inner, keras.layers.ReLU(name="relu")])
        >>> [layer.name for layer in all_layers(net) if layer is not inner]
        ['dense', 'relu']
    """
    return list(_walk(model, set(), in_wrappers))


def _walk(model: Any, seen: set[int], in_wrappers: bool) -> Iterator[Any]:
    layers = getattr(model, "layers", None if in_wrappers else ())
    if not isinstance(layers, list | tuple):  # a custom layer may have any attribute of this name
        layers = [layer for _, layer in inner_layers(model)] if in_wrappers else []
    for layer in layers:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            yield from _walk(layer, seen, in_wrappers)


def inner_layers(layer: Any) -> list[tuple[str, Any]]:
    """Return the layers that are attributes of a layer, with the paths of the attributes.

    Layers in lists and dictionaries are included, those inside these layers are not. Paths are
    the same for every copy of a layer; leading underscores are left out.

    Args:
        layer: a Keras layer; for anything else the list is empty.

    Example:
        >>> [path for path, _ in inner_layers(keras.layers.Bidirectional(keras.layers.LSTM(2)))]
        ['forward_layer', 'backward_layer']
    """
    if not isinstance(layer, keras.layers.Layer):
        return []
    found: dict[int, tuple[str, Any]] = {}
    for name, value in vars(layer).items():
        # The lists that Keras and TensorFlow keep of all inner layers are left out.
        if name not in _LISTS_OF_KERAS and not name.startswith("_self_"):
            for path, inner in _layers_in(value, name.lstrip("_")):
                found.setdefault(id(inner), (path, inner))
    return list(found.values())


_LISTS_OF_KERAS = ("_layers", "_metrics", "_functional", "_operations")


def _layers_in(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the layers in an attribute."""
    if isinstance(value, keras.layers.Layer):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _layers_in(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _layers_in(item, f"{path}/{number}")


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


def is_graph(model: Any) -> bool:
    """Return whether a model is Sequential or functional, so that its layers can be replaced.

    Example:
        >>> is_graph(keras.Sequential([keras.layers.Dense(2)])), is_graph(keras.layers.Dense(2))
        (True, False)
    """
    return isinstance(model, keras.Sequential | functional_class())
