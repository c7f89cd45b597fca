"""What a layer consists of, read from one of the two libraries and made again in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from hydra_tf.core.keras_classes import resolve
from hydra_tf.core.layer_copies import cause
from hydra_tf.interop.tfmot.importing import import_tf_keras
from hydra_tf.interop.tfmot.layer_kinds import KINDS

# Activations that TFMOT quantizes, by their names in Keras 3.
ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "silu", "softmax", "tanh")
_IN_TF_KERAS = {"silu": "swish"}
_IN_KERAS = {"swish": "silu"}

# Operations of Keras 3 that do what a layer does.
_OPERATIONS = {"ops.add": "Add", "ops.relu": "ReLU", "activations.relu": "ReLU"}

_STRIP_FIRST = {
    "ClusterWeights": "call tfmot.clustering.keras.strip_clustering on the model first",
    "PruneLowMagnitude": "call tfmot.sparsity.keras.strip_pruning on the model first",
    "QuantizeAnnotate": "call tfmot.quantization.keras.quantize_apply on the model first",
}
_QUANTIZED = ("QuantizeWrapper", "QuantizeWrapperV2")
_QUANTIZE_ONLY = "QuantizeLayer"

# TFMOT's wrapper adds other weights, such as the ends of ranges.
_WEIGHTS = (
    "beta", "bias", "depthwise_kernel", "gamma", "kernel", "moving_mean", "moving_variance",
    "pointwise_kernel",
)  # fmt: skip

# Entries of a config that need not be the same in both libraries: weights are copied, and dtype is
# always float32.
_UNUSED = ("batch_input_shape", "dtype", "name", "renorm_momentum", "synchronized", "trainable")


@dataclass(frozen=True)
class Parts:
    """A layer, in terms of Keras 3.

    Args:
        name: name of the layer.
        kind: name of its class, a key of :data:`KINDS`.
        arguments: arguments of the class.
        weights: values of the weights, by name.
        trainable: whether training changes the weights.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    weights: Mapping[str, np.ndarray[Any, Any]]
    trainable: bool = True


def read_keras(layer: Any) -> Parts:
    """Return the parts of a Keras 3 layer, or of an operation such as that of ``a + b``.

    Raises:
        ValueError: as :func:`read_tf_keras`.

    Example:
        >>> read_keras(keras.layers.Dropout(0.5, name="drop")).arguments["rate"]
        0.5
    """
    kinds: dict[Any, str] = {resolve(name): kind for name, kind in _OPERATIONS.items()}
    kind = kinds.get(type(layer))
    if kind:
        options = [name for name in KINDS[kind].arguments if hasattr(layer, name)]
        return Parts(layer.name, kind, {name: getattr(layer, name) for name in options}, {})
    _require_supported(layer, keras)
    return _parts(layer, layer.get_config(), weights_by_name(layer))


def read_tf_keras(layer: Any) -> Parts | None:
    """Return the parts of a tf_keras layer; None if it only emulates quantization.

    A layer that TFMOT has wrapped for quantization-aware training is read without the wrapper,
    with the trained float weights.

    Raises:
        ValueError: for a layer, activation or argument that cannot be converted, weights that
            are not float32, or a layer that TFMOT has wrapped in another way.

    Example:
        >>> tf_keras = import_tf_keras()
        >>> read_tf_keras(tf_keras.layers.Dropout(0.5, name="drop")).arguments["rate"]
        0.5
    """
    kind = type(layer).__name__
    if kind == _QUANTIZE_ONLY:
        return None
    if kind in _STRIP_FIRST:
        raise ValueError(
            f'Layer "{layer.name}" is wrapped by TFMOT ({kind}); {_STRIP_FIRST[kind]}.'
        )
    inner = layer.layer if kind in _QUANTIZED else layer
    _require_supported(inner, import_tf_keras())
    own = KINDS[type(inner).__name__]
    names = {renamed: name for name, renamed in own.renamed.items()}
    config = {names.get(name, name): value for name, value in inner.get_config().items()}
    if "activation" in config:
        config["activation"] = _activation_name(inner.activation)
    weights = {names.get(name, name): weight for name, weight in weights_by_name(layer).items()}
    if inner is not layer:
        weights = {name: weight for name, weight in weights.items() if name in _WEIGHTS}
    return _parts(inner, config, weights)


def is_quantized(layer: Any) -> bool:
    """Return whether TFMOT emulates quantization in a tf_keras layer.

    Example:
        >>> is_quantized(import_tf_keras().layers.ReLU())
        False
    """
    return type(layer).__name__ in (*_QUANTIZED, _QUANTIZE_ONLY)


def make_keras(parts: Parts) -> Any:
    """Return a new Keras 3 layer, without the weights.

    Example:
        >>> make_keras(Parts("relu", "ReLU", {"max_value": 6.0}, {})).max_value
        6.0
    """
    # Keras 3 does not allow slashes in names.
    return _make(keras, replace(parts, name=parts.name.replace("/", "_")))


def make_tf_keras(parts: Parts) -> Any:
    """Return a new tf_keras layer, without the weights.

    Example:
        >>> make_tf_keras(Parts("leaky", "LeakyReLU", {"negative_slope": 0.5}, {})).name
        'leaky'
    """
    renamed = KINDS[parts.kind].renamed
    arguments = {renamed.get(name, name): value for name, value in parts.arguments.items()}
    if "activation" in arguments:
        name = arguments["activation"]
        arguments["activation"] = _IN_TF_KERAS.get(name, name)
    return _make(import_tf_keras(), replace(parts, arguments=arguments))


def weights_by_name(layer: Any) -> dict[str, Any]:
    """Return the weights of a layer of either library by their names within the layer.

    Example:
        >>> layer = keras.layers.Dense(2)
        >>> layer.build([None, 3])
        >>> sorted(weights_by_name(layer))
        ['bias', 'kernel']
    """
    weights = {}
    for weight in layer.weights:
        # Keras 3 keeps the state of random numbers with the weights.
        if "seed_generator" not in getattr(weight, "path", ""):
            weights[weight.name.rpartition("/")[2].partition(":")[0]] = weight
    return weights


def write_weights(layer: Any, parts: Parts) -> None:
    """Set the weights of a layer of either library, by name.

    Args:
        layer: a built layer.
        parts: what it was made from.

    Raises:
        ValueError: when the names or shapes of the weights differ.

    Example:
        >>> layer = keras.layers.Dense(1, use_bias=False)
        >>> layer.build([None, 1])
        >>> write_weights(layer, Parts("dense", "Dense", {}, {"kernel": np.ones([1, 1])}))
        >>> layer.kernel.numpy().tolist()
        [[1.0]]
    """
    names = {renamed: name for name, renamed in KINDS[parts.kind].renamed.items()}
    targets = {names.get(name, name): weight for name, weight in weights_by_name(layer).items()}
    expected = {name: tuple(weight.shape) for name, weight in targets.items()}
    found = {name: tuple(value.shape) for name, value in parts.weights.items()}
    if expected != found:
        raise ValueError(
            f'Layer "{parts.name}" ({parts.kind}) has weights of the shapes {found}, but a plain '
            f"layer of this kind has {expected}."
        )
    for name, weight in targets.items():
        weight.assign(parts.weights[name])


def _require_supported(layer: Any, library: Any) -> None:
    """Check that a layer is of a kind that can be converted; subclasses may compute anything."""
    kind = type(layer).__name__
    if kind not in KINDS or type(layer) is not getattr(library.layers, kind):
        raise ValueError(
            f'Layer "{layer.name}" ({kind}) cannot be converted; supported are the layers that '
            f"TFMOT can quantize: {', '.join(KINDS)}; and the operations add and relu of Keras 3."
        )


def _parts(layer: Any, config: Mapping[str, Any], weights: Mapping[str, Any]) -> Parts:
    """Return the parts of a supported layer.

    Args:
        layer: layer of either library.
        config: its config, with the names of Keras 3.
        weights: its weights, with the names of Keras 3.
    """
    kind = type(layer).__name__
    arguments = {}
    for name, value in config.items():
        if name == "data_format" and value != "channels_last":
            raise ValueError(
                f'Layer "{layer.name}" ({kind}) has data_format="{value}", but only '
                '"channels_last" can be converted.'
            )
        if name == "activation":
            _require_activation(layer, value)
        if name in KINDS[kind].arguments:
            arguments[name] = _plain(value)
        elif not (name in _UNUSED or name.endswith("_initializer") or _has_no_effect(value)):
            raise ValueError(
                f'Layer "{layer.name}" ({kind}) has {name}={value!r}, which cannot be converted.'
            )
    values = {name: np.asarray(weight) for name, weight in weights.items()}
    for name, array in values.items():
        if array.dtype != np.float32:
            raise ValueError(
                f'Layer "{layer.name}" ({kind}) has the weight "{name}" in {array.dtype}, but '
                "TFMOT needs float32."
            )
    return Parts(layer.name, kind, arguments, values, layer.trainable)


def _has_no_effect(value: Any) -> bool:
    """Return whether an argument that only one library has is the same as none."""
    return value in (None, "channels_last") or value is False or (type(value) is int and value == 1)


def _activation_name(function: Any) -> Any:
    """Return the name in Keras 3 of an activation function of tf_keras.

    TFMOT wraps activations, and replaces those that it fuses with a BatchNormalization.
    """
    if type(function).__name__ == "QuantizeAwareActivation":
        function = function.activation
    if type(function).__name__ == "NoOpActivation":
        return "linear"
    name = import_tf_keras().activations.serialize(function)
    return _IN_KERAS.get(name, name) if isinstance(name, str) else name


def _require_activation(layer: Any, name: Any) -> None:
    """Check that TFMOT can quantize an activation."""
    if name not in ACTIVATIONS:
        shown = name.get("class_name") if isinstance(name, dict) else name
        raise ValueError(
            f'Layer "{layer.name}" ({type(layer).__name__}) has the activation "{shown}", which '
            f"TFMOT cannot quantize; supported are {', '.join(ACTIVATIONS)}."
        )


def _plain(value: Any) -> Any:
    """Return an entry of a config as plain Python numbers, strings, tuples and dictionaries."""
    if isinstance(value, dict):  # a regularizer or constraint
        return {"class_name": value["class_name"], "config": dict(value["config"])}
    if isinstance(value, Sequence) and not isinstance(value, str):
        entries = tuple(_plain(entry) for entry in value)
        return entries[0] if len(entries) == 1 else entries
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


def _make(library: Any, parts: Parts) -> Any:
    """Return a new layer of a library from arguments with its names."""
    try:
        arguments = dict(parts.arguments)
        for name, value in arguments.items():
            if isinstance(value, dict):
                module = library.constraints if "constraint" in name else library.regularizers
                arguments[name] = module.get(value)
        layer_class = getattr(library.layers, parts.kind)
        layer = layer_class(**arguments, name=parts.name, dtype="float32")
    # The libraries raise errors of many types.
    except Exception as error:
        raise ValueError(
            f'Layer "{parts.name}" ({parts.kind}) cannot be made in {library.__name__}: '
            f"{cause(error)}."
        ) from error
    layer.trainable = parts.trainable
    return layer
