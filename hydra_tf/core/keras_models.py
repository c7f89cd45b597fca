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
    if isinstance(model, keras.Model):  # any layer may have an attribute of this name
        layers = model.layers
    else:
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
    if is_graph(layer):
        return [(str(number), inner) for number, inner in enumerate(layer.layers)]
    found: dict[int, tuple[str, Any]] = {}
    for path, inner in attributes(layer, keras.layers.Layer):
        found.setdefault(id(inner), (path, inner))
    return list(found.values())


def attributes(layer: Any, kind: type) -> list[tuple[str, Any]]:
    """Return the attributes of a layer that are of some class, with their names.

    Those in lists and dictionaries are included. Leading underscores are left out, unless another
    attribute has that name.

    Args:
        layer: a Keras layer.
        kind: the class.

    Example:
        >>> layer = keras.layers.Dense(2)
        >>> layer.build([None, 3])
        >>> [name for name, _ in attributes(layer, keras.Variable)]
        ['kernel', 'bias']
    """
    own = vars(layer)
    found: list[tuple[str, Any]] = []
    for name, value in own.items():
        # The lists that Keras and TensorFlow keep of everything in the layer are left out.
        if name not in _LISTS_OF_KERAS and not name.startswith("_self_"):
            plain = name.lstrip("_")
            found += _in_value(value, name if plain in own else plain, kind)
    return found


_LISTS_OF_KERAS = (
    "_layers", "_metrics", "_functional", "_operations", "_trainable_variables",
    "_non_trainable_variables",
)  # fmt: skip


def _in_value(value: Any, path: str, kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what is of a class in an attribute."""
    if isinstance(value, kind):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _in_value(item, f"{path}/{key}", kind)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _in_value(item, f"{path}/{number}", kind)


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
