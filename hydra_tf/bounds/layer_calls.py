"""From a Keras model to the layer calls that it makes, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.rules.layers import require_rule
from hydra_tf.core.keras_models import functional_class, wrapped_network
from hydra_tf.core.lazy import keras


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Args:
        layer: the layer, or the Keras operation of ``a + b``.
        sources: numbers of the values it is called on; 0 is the model's input and i + 1 the
            value of the i-th call.
        shapes: their shapes, batch axis first.
    """

    layer: Any
    sources: tuple[int, ...]
    shapes: tuple[tuple[int | None, ...], ...]


def functional_of(model: Any) -> Any:
    """Return the functional model itself, or the network that a wrapper holds as ``net``.

    Raises:
        TypeError: for what is no Keras model or has no graph of layers.
        ValueError: for a model that is not built.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> functional_of(net) is net
        True
    """
    net = wrapped_network(model)
    if not isinstance(net, keras.Model):
        raise TypeError(
            f"Bounds need a functional or Sequential Keras model, not {type(net).__name__}."
        )
    functional, sequential = functional_class(), keras.Sequential
    own = type(net).call not in (functional.call, sequential.call)
    if own or not isinstance(net, functional | sequential):
        raise TypeError(
            f"{type(net).__name__} is a subclassed model, whose layers cannot be followed; build "
            "it with the functional API, or pass the functional model inside it."
        )
    if not net.built:
        raise ValueError("The model is not built yet; call it on a batch or give it an Input.")
    return net


def walk(net: Any) -> list[Call]:
    """Return the layer calls of a network, nested models dissolved, each after its sources.

    The wiring is read from the model's public configuration.

    Args:
        net: a built functional or Sequential model of one input and one output.

    Raises:
        ValueError: for several inputs or outputs, and for a layer without a rule.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> [(call.layer.name[:5], call.sources) for call in walk(net)]
        [('dense', (0,))]
    """
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise ValueError(
            f"Bounds need a model of one input and one output; {net.name} has "
            f"{len(net.inputs)} and {len(net.outputs)}."
        )
    calls: list[Call] = []
    output = _wire(net, [0], calls)[0]
    if output != len(calls):  # the output is a value in the middle: nothing after it matters
        del calls[output:]
    return calls


def _wire(net: Any, inputs: list[int], calls: list[Call]) -> list[int]:
    """Append the calls of one model on given values; return the numbers of its outputs."""
    plain = keras.Model(net.inputs, net.outputs)
    layers = {layer.name: layer for layer in plain.operations}
    for layer in layers.values():
        if not _is_model(layer) and not isinstance(layer, keras.layers.InputLayer):
            require_rule(layer)
    config = plain.get_config()
    pairs = zip(_ends(config["input_layers"]), inputs, strict=True)
    values: dict[tuple[Any, ...], int] = dict(pairs)
    waiting = [
        (layer["name"], index, node)
        for layer in config["layers"]
        for index, node in enumerate(layer["inbound_nodes"])
    ]
    while waiting:
        later = []
        for name, index, node in waiting:
            tensors = list(_tensors(_arguments(node)))
            sources = [tuple(tensor["keras_history"]) for tensor in tensors]
            if any(source not in values for source in sources):
                later.append((name, index, node))
                continue
            _require_plain_call(layers[name], node, len(sources))
            numbers = [values[source] for source in sources]
            if _is_model(layers[name]):
                found = _wire(layers[name], numbers, calls)
            else:
                shapes = tuple(tuple(tensor["shape"]) for tensor in tensors)
                calls.append(Call(layers[name], tuple(numbers), shapes))
                found = [len(calls)]
            values.update({(name, index, i): value for i, value in enumerate(found)})
        waiting = later
    return [values[end] for end in _ends(config["output_layers"])]


def _is_model(layer: Any) -> bool:
    if not isinstance(layer, keras.Model):
        return False
    functional_of(layer)
    return True


def _ends(given: Any) -> list[tuple[Any, ...]]:
    """Inputs or outputs of a configuration: one of (name, node, tensor), or a list of them."""
    if isinstance(given[0], str):
        return [tuple(given)]
    return [tuple(each) for each in given]


def _tensors(argument: Any) -> Iterator[dict[str, Any]]:
    """What is known of the tensors in the arguments of a call, in order."""
    if isinstance(argument, list | tuple):
        for part in argument:
            yield from _tensors(part)
    elif isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__":
        yield argument["config"]


# What layers and operations call the tensors that they are called on, in order.
_TAKEN = ("inputs", "x", "x1", "x2")


def _arguments(node: Any) -> list[Any]:
    """What a layer is called on, in order, by position or by name."""
    named = [node["kwargs"][name] for name in _TAKEN if name in node["kwargs"]]
    given = [*node["args"], *named]
    while len(given) == 1 and isinstance(given[0], list | tuple):
        given = list(given[0])
    return given


def _require_plain_call(layer: Any, node: Any, tensors: int) -> None:
    """Refuse a call with more than tensors, such as one in training mode."""
    options = [
        name
        for name, value in node["kwargs"].items()
        if name not in _TAKEN and not _says_nothing(value)
    ]
    if options or len(_arguments(node)) != tensors:
        what = ", ".join(options) or "numbers beside tensors"
        raise ValueError(
            f'Layer "{layer.name}" ({type(layer).__name__}) is called with {what}, for which '
            "bounds have no rule; call it on tensors alone."
        )


def _says_nothing(value: Any) -> bool:
    """Whether an argument is as good as left out, as are the masks of tensors without one."""
    if isinstance(value, list | tuple):
        return all(map(_says_nothing, value))
    return value in (None, False)
