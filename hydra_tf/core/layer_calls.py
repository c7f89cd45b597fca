"""The layer calls of a Keras model, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from hydra_tf.core.keras_models import functional_class, wrapped_network
from hydra_tf.core.lazy import keras

# Parsed JSON of a model's configuration, and the (layer, node, tensor) keys of its tensors.
Config: TypeAlias = Any
TensorKey: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Args:
        layer: the layer, or a Keras operation such as that of ``a + b``.
        sources: numbers of the values that it is called on: first the model's inputs, then the
            outputs of the calls.
        shapes: their shapes, batch axis first.
    """

    layer: keras.layers.Layer
    sources: tuple[int, ...]
    shapes: tuple[tuple[int | None, ...], ...]


def functional_model(model: keras.Model) -> keras.Model:
    """Return a functional model itself, or the network of a :class:`hydra_tf.RobustModel`.

    Raises:
        TypeError: for an object that is not a Keras model, and for a subclassed model, which has
            no record of how its layers are connected.
        ValueError: for a model that is not built.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> functional_model(net) is net
        True
    """
    net = wrapped_network(model)
    if not isinstance(net, keras.Model):
        raise TypeError(
            f"Expected a functional or Sequential Keras model, not {type(net).__name__}."
        )
    functional, sequential = functional_class(), keras.Sequential
    overridden = type(net).call not in (functional.call, sequential.call)
    if overridden or not isinstance(net, functional | sequential):
        raise TypeError(
            f"{type(net).__name__} is a subclassed model, whose layers cannot be followed; build "
            "it with the functional API, or pass the functional model inside it."
        )
    if not net.built:
        raise ValueError("The model is not built yet; call it on a batch or give it an Input.")
    return net


@dataclass(frozen=True)
class LayerCalls:
    """The layer calls of a network and its nested models, each after its sources.

    Args:
        inputs: number of inputs of the network.
        calls: the calls.
        outputs: numbers of the values that the network returns.
    """

    inputs: int
    calls: list[Call] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def append(self, call: Call) -> int:
        """Append a call and return the number of its output."""
        self.calls.append(call)
        return self.inputs + len(self.calls) - 1


def read_calls(net: keras.Model, check: Callable[[Any], object]) -> LayerCalls:
    """Return the layer calls of a network and its nested models.

    The connections are read from the model's public configuration.

    Args:
        net: a built functional or Sequential model.
        check: called with every layer and operation; it raises an error for those to refuse.

    Raises:
        TypeError: for a nested model that is subclassed.
        ValueError: for a call with more than tensors, such as a training mode, and for a layer
            of which a second output is used.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> calls = read_calls(net, print)
        <Dense name=dense..., built=True>
        >>> [call.sources for call in calls.calls], calls.outputs
        ([(0,)], [1])
    """
    found = LayerCalls(len(net.inputs))
    found.outputs.extend(_append_calls(net, range(found.inputs), found, check))
    return found


def _append_calls(
    net: keras.Model, inputs: Sequence[int], found: LayerCalls, check: Callable[[Any], object]
) -> list[int]:
    """Append the calls of one model on input values; return the numbers of its output values."""
    functional = keras.Model(net.inputs, net.outputs)
    layers = {layer.name: layer for layer in functional.operations}
    for layer in layers.values():
        if not _is_model(layer) and not isinstance(layer, keras.layers.InputLayer):
            check(layer)
    config = functional.get_config()
    values = dict(zip(_tensor_keys(config["input_layers"]), inputs, strict=True))
    pending = [
        (layer["name"], index, node)
        for layer in config["layers"]
        for index, node in enumerate(layer["inbound_nodes"])
    ]
    while pending:
        not_ready = []
        for name, index, node in pending:
            tensors = list(_tensors(_arguments(node)))
            sources = _sources(node)
            if any(source not in values for source in sources):
                not_ready.append((name, index, node))
                continue
            _require_plain_call(layers[name], node, len(sources))
            numbers = [values[source] for source in sources]
            if _is_model(layers[name]):
                outputs = _append_calls(layers[name], numbers, found, check)
            else:
                shapes = tuple(tuple(tensor["shape"]) for tensor in tensors)
                outputs = [found.append(Call(layers[name], tuple(numbers), shapes))]
            values.update({(name, index, i): value for i, value in enumerate(outputs)})
        if len(not_ready) == len(pending):  # a layer of several outputs has values without a number
            _refuse_several_outputs(layers, values, pending)
        pending = not_ready
    keys = _tensor_keys(config["output_layers"])
    # Here, unlike in the calls, Keras counts the node that a functional model has from the start.
    first = {name: int(isinstance(layer, functional_class())) for name, layer in layers.items()}
    return [values[name, node - first[name], tensor] for name, node, tensor in keys]


def _refuse_several_outputs(
    layers: dict[str, Any],
    values: dict[TensorKey, int],
    pending: Sequence[tuple[str, int, Config]],
) -> NoReturn:
    """Raise the error for a layer of which an output other than the first one is used."""
    keys = {key for _, _, node in pending for key in _sources(node)} - values.keys()
    name = min((key for key in keys if key[2] > 0), default=min(keys))[0]
    raise ValueError(
        f'Layer "{name}" ({type(layers[name]).__name__}) has several outputs, which is not '
        "supported; use layers of one output."
    )


def _sources(node: Config) -> list[TensorKey]:
    """Return the keys of the tensors that a call takes, in order."""
    return [tuple(tensor["keras_history"]) for tensor in _tensors(_arguments(node))]


def _is_model(layer: keras.layers.Layer) -> bool:
    if not isinstance(layer, keras.Model):
        return False
    functional_model(layer)
    return True


def _tensor_keys(config: Config) -> list[TensorKey]:
    """Return the keys of the inputs or outputs, which are one (layer, node, tensor) or a list."""
    keys = [config] if isinstance(config[0], str) else config
    return [(key[0], key[1], key[2]) for key in keys]


def _tensors(argument: Config) -> Iterator[Config]:
    """Yield the configurations of the tensors in the arguments of a call, in order."""
    if isinstance(argument, list | tuple):
        for element in argument:
            yield from _tensors(element)
    elif isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__":
        yield argument["config"]


# Names of the arguments in which layers and operations take tensors, in order.
_TENSOR_ARGUMENTS = ("inputs", "x", "x1", "x2")


def _arguments(node: Config) -> list[Config]:
    """Return the positional and named tensor arguments of a call, in order."""
    named = [node["kwargs"][name] for name in _TENSOR_ARGUMENTS if name in node["kwargs"]]
    arguments = [*node["args"], *named]
    while len(arguments) == 1 and isinstance(arguments[0], list | tuple):
        arguments = list(arguments[0])
    return arguments


def _require_plain_call(layer: keras.layers.Layer, node: Config, tensors: int) -> None:
    """Check that a call has no arguments other than tensors, such as a training mode."""
    options = [
        name
        for name, value in node["kwargs"].items()
        if name not in _TENSOR_ARGUMENTS and not _has_no_effect(value)
    ]
    if options or len(_arguments(node)) != tensors:
        what = ", ".join(options) or "numbers as well as tensors"
        raise ValueError(
            f'Layer "{layer.name}" ({type(layer).__name__}) is called with {what}, which is '
            "not supported; call it on tensors alone."
        )


def _has_no_effect(value: Config) -> bool:
    """Return whether an argument has its default value, as masks do for unmasked tensors."""
    if isinstance(value, list | tuple):
        return all(map(_has_no_effect, value))
    return value in (None, False)
