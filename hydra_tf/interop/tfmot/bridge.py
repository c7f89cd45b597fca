"""Plain networks from Keras 3 to tf_keras, where TFMOT works, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from hydra_tf.core.layer_calls import Call, LayerCalls, functional_model, read_calls
from hydra_tf.export.prepare import computes_in_half, in_float32, plain_copy
from hydra_tf.export.probes import random_probes
from hydra_tf.interop.tfmot.importing import import_tf_keras
from hydra_tf.interop.tfmot.layer_parts import (
    Parts,
    is_quantized,
    make_keras,
    make_tf_keras,
    read_keras,
    read_tf_keras,
    write_weights,
)
from hydra_tf.interop.tfmot.relu_fusion import fuse_relu as fuse_relu_layers
from hydra_tf.interop.tfmot.tf_keras_calls import read_tf_keras_calls

_RELATIVE_ERROR = 1e-4
_UNKNOWN_SIZE = 32  # where an input has no fixed size
_MERGING = ("Add", "Concatenate")  # called on a list, also of one tensor


def to_tf_keras(model: keras.Model, fuse_relu: bool = True) -> Any:
    """Return a network as a functional tf_keras model, which TFMOT can quantize and cluster.

    Layers keep their names, pruned weights are 0 and everything is float32, also if the network
    computes in mixed precision. Nested models are flattened. The new model is not compiled. Its
    outputs on random inputs are compared with those of the network before it is returned.

    Args:
        model: masked or plain functional or Sequential model, or a :class:`hydra_tf.RobustModel`.
            Its layers must be of the kinds that TFMOT's quantization supports, channels last.
        fuse_relu: make a ReLU layer after a convolution or dense layer the activation of that
            layer. Otherwise TFMOT does not quantize the kernel, nor preserve its zeros.

    Returns:
        The tf_keras model; it shares nothing with the network.

    Raises:
        TypeError: for a subclassed model, or a model that is not of Keras 3.
        ValueError: for a layer, activation or argument that cannot be converted, naming it.
        RuntimeError: when the outputs differ.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="logits")])
        >>> converted = to_tf_keras(net)
        >>> type(converted).__module__.partition(".")[0], converted.layers[-1].name
        ('tf_keras', 'logits')
    """
    tf_keras = import_tf_keras()
    if isinstance(model, tf_keras.Model):
        raise TypeError("to_tf_keras takes a Keras 3 model, but this is a tf_keras model already.")
    plain = plain_copy(model)
    plain = functional_model(in_float32(plain) if computes_in_half(plain) else plain)
    found = read_calls(plain, read_keras)

    parts = [_read_call(call) for call in found.calls]
    inputs = [
        tf_keras.Input(shape[1:], batch_size=shape[0], name=name, dtype="float32")
        for name, shape in _inputs(plain)
    ]
    fused = fuse_relu_layers(found, parts) if fuse_relu else parts
    outputs = _connect(found, inputs, fused, make_tf_keras)
    converted = tf_keras.Model(_one_or_all(inputs), _one_or_all(outputs), name=plain.name)
    # Keras 3 warns if it gets one image where the model was made with a list of one input.
    _require_equal_outputs(keras.Model(_one_or_all(plain.inputs), plain.outputs), converted)
    return converted


def from_tf_keras(model: Any) -> keras.Model:
    """Return a tf_keras model as a functional Keras 3 model.

    After quantization-aware training, this is the float network: TFMOT's wrappers are left out,
    and the kernels are the trained ones before they are rounded to 8 bits, with their zeros.
    Its outputs therefore differ from those of the quantized model by the rounding. For another
    model, outputs on random inputs are compared before the new model is returned.

    Args:
        model: functional or Sequential tf_keras model of the kinds of layers that TFMOT's
            quantization supports, channels last; or the same after
            ``tfmot.quantization.keras.quantize_apply``.

    Returns:
        The Keras 3 model, not compiled; it shares nothing with the tf_keras model.

    Raises:
        TypeError: for a subclassed model, or a model that is not of tf_keras.
        ValueError: for a layer, activation or argument that cannot be converted, naming it, and
            for a model from which TFMOT's pruning or clustering must be stripped first.
        RuntimeError: when the outputs differ.

    Example:
        >>> layers = import_tf_keras().layers
        >>> net = import_tf_keras().Sequential([layers.Dense(3, input_shape=(2,), name="logits")])
        >>> tuple(from_tf_keras(net).get_layer("logits").kernel.shape)
        (2, 3)
    """
    if not isinstance(model, import_tf_keras().Model):
        raise TypeError(
            f"from_tf_keras takes a tf_keras model, not {type(model).__module__}."
            f"{type(model).__name__}."
        )
    found = read_tf_keras_calls(model, read_tf_keras)
    inputs = [
        keras.Input(batch_shape=shape, name=name, dtype="float32") for name, shape in _inputs(model)
    ]
    parts = [read_tf_keras(call.layer) for call in found.calls]
    outputs = _connect(found, inputs, parts, make_keras)
    converted = keras.Model(_one_or_all(inputs), _one_or_all(outputs), name=model.name)
    if not any(is_quantized(call.layer) for call in found.calls):
        _require_equal_outputs(model, converted)
    return converted


def _read_call(call: Call) -> Parts:
    """Return the parts of the layer or operation of a call."""
    parts = read_keras(call.layer)
    if not isinstance(call.layer, keras.layers.Layer) and len(set(call.shapes)) > 1:
        raise ValueError(
            f'The operation "{parts.name}" adds tensors of the shapes '
            f"{', '.join(map(str, call.shapes))}; give them the same shape."
        )
    return parts


def _inputs(model: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return the names and shapes of the inputs, batch axis first."""
    for tensor in model.inputs:
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype != "float32":
            raise ValueError(
                f'The input "{tensor.name}" is of the type {dtype}, but only float32 can be '
                "converted."
            )
    return [(tensor.name, tuple(tensor.shape)) for tensor in model.inputs]


def _one_or_all(tensors: Sequence[Any]) -> Any:
    """Return the only tensor of a list, or the list."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


def _connect(
    found: LayerCalls,
    inputs: Sequence[Any],
    parts: Sequence[Parts | None],
    make: Callable[[Parts], Any],
) -> list[Any]:
    """Repeat layer calls with new layers, and return the tensors that the network returns.

    Args:
        found: the calls.
        inputs: the new input tensors.
        parts: for each call the parts of its layer, or None if it is left out.
        make: makes a layer from them.
    """
    values = list(inputs)
    layers: dict[int, tuple[Parts, Any]] = {}
    for call, own in zip(found.calls, parts, strict=True):
        arguments = [values[source] for source in call.sources]
        if own is None:
            values.append(arguments[0])
            continue
        if id(call.layer) not in layers:
            layers[id(call.layer)] = own, make(own)
        layer = layers[id(call.layer)][1]
        values.append(layer(arguments if own.kind in _MERGING else arguments[0]))
    names: set[str] = set()
    for own, layer in layers.values():
        if own.name in names:
            raise ValueError(
                f'Two layers of the network and its nested models are named "{own.name}"; '
                "rename one."
            )
        names.add(own.name)
        write_weights(layer, own)
    return [values[output] for output in found.outputs]


def _require_equal_outputs(model: Any, converted: Any) -> None:
    """Check that two models return the same on random inputs, one of each library."""
    shapes = [[_UNKNOWN_SIZE if n is None else n for n in t.shape[1:]] for t in model.inputs]
    count = model.inputs[0].shape[0] or 2
    images = _one_or_all([random_probes(tuple(shape), count) for shape in shapes])
    expected, found = (
        [
            np.asarray(output, np.float64)
            for output in keras.tree.flatten(net(images, training=False))
        ]
        for net in (model, converted)
    )
    for one, other in zip(expected, found, strict=True):
        error = np.max(np.abs(one - other))
        if not error <= _RELATIVE_ERROR * np.max(np.abs(one)):
            raise RuntimeError(
                f'The outputs of "{converted.name}" after the conversion differ by up to {error:g} '
                "from those before, so that it is not returned."
            )
