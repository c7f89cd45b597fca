"""The layer calls of a tf_keras model, in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from hydra_tf.core.layer_calls import Call, Config, LayerCalls
from hydra_tf.interop.tfmot.importing import import_tf_keras


def read_tf_keras_calls(model: Any, check: Callable[[Any], object]) -> LayerCalls:
    """Return the layer calls of a tf_keras model and its nested models.

    The connections are read from the model's public configuration.

    Args:
        model: a built functional or Sequential tf_keras model.
        check: called with every layer; it raises an error for those to refuse.

    Raises:
        TypeError: for a model, or a nested model, that is subclassed.
        ValueError: for a model that is not built, and a call with more than tensors, such as a
            training mode.

    Example:
        >>> layers = import_tf_keras().layers
        >>> net = import_tf_keras().Sequential([layers.Dense(3, input_shape=(2,))])
        >>> found = read_tf_keras_calls(net, lambda layer: None)
        >>> [call.sources for call in found.calls], found.outputs
        ([(0,)], [1])
    """
    _require_graph(model)
    found = LayerCalls(len(model.inputs))
    found.outputs.extend(_append_calls(model, range(found.inputs), found, check))
    return found


@functools.cache
def _functional_class() -> Any:
    """Return the class of functional tf_keras models, which is not exported."""
    tf_keras = import_tf_keras()
    images = tf_keras.Input([1])
    return type(tf_keras.Model(images, tf_keras.layers.ReLU()(images)))


def _require_graph(model: Any) -> None:
    """Check that a model is functional or Sequential, and built."""
    functional, sequential = _functional_class(), import_tf_keras().Sequential
    overridden = type(model).call not in (functional.call, sequential.call)
    if overridden or not isinstance(model, functional | sequential):
        raise TypeError(
            f"{type(model).__name__} is a subclassed model, whose layers cannot be followed; build "
            "it with the functional API, or pass the functional model inside it."
        )
    if not model.built or not model.inputs:
        raise ValueError("The model is not built yet; call it on a batch or give it an InputLayer.")


def _append_calls(
    model: Any, inputs: Sequence[int], found: LayerCalls, check: Callable[[Any], object]
) -> list[int]:
    """Append the calls of one model on input values; return the numbers of its output values."""
    tf_keras = import_tf_keras()
    functional = tf_keras.Model(model.inputs, model.outputs)
    for layer in functional.layers:
        if not isinstance(layer, tf_keras.Model | tf_keras.layers.InputLayer):
            check(layer)
    config = functional.get_config()
    values = dict(zip(_keys(config["input_layers"]), inputs, strict=True))
    nodes = {layer["name"]: layer["inbound_nodes"] for layer in config["layers"]}
    outputs = _keys(config["output_layers"])
    # The nodes of nested models may be counted from 1. The output of every node is used.
    used = [*outputs, *(key for calls in nodes.values() for node in calls for key in _keys(node))]
    first = {name: min(number for user, number, _ in used if user == name) for name in nodes}
    pending = [
        (name, index, node)
        for name, calls in nodes.items()
        for index, node in enumerate(calls, first[name])
    ]
    while pending:
        not_ready = []
        for name, index, node in pending:
            layer = functional.get_layer(name)
            _require_plain_call(layer, node)
            sources = _keys(node)
            if any(source not in values for source in sources):
                not_ready.append((name, index, node))
                continue
            numbers = [values[source] for source in sources]
            if isinstance(layer, tf_keras.Model):
                _require_graph(layer)
                results = _append_calls(layer, numbers, found, check)
            else:
                # Shapes are needed only for the operations of Keras 3.
                results = [found.append(Call(layer, tuple(numbers), ()))]
            values.update({(name, index, i): value for i, value in enumerate(results)})
        pending = not_ready
    return [values[key] for key in outputs]


def _keys(config: Config) -> list[tuple[str, int, int]]:
    """Return the (layer, node, tensor) keys of tensors, which are one or a list."""
    keys = [config] if isinstance(config[0], str) else config
    return [(key[0], key[1], key[2]) for key in keys]


def _require_plain_call(layer: Any, node: Config) -> None:
    """Check that a layer is called on tensors alone."""
    tensors = [node] if node and isinstance(node[0], str) else node
    options = {name for tensor in tensors for name, value in tensor[3].items() if value}
    if options:
        raise ValueError(
            f'Layer "{layer.name}" ({type(layer).__name__}) is called with '
            f"{', '.join(sorted(options))}, which is not supported; call it on tensors alone."
        )
