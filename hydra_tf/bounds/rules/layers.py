"""The rule table: what each Keras layer is to a bound.

A rule takes a layer and the shapes [batch, ...] that it is called on, and returns the nodes
that its output goes through, one after the other: a convolution with a ReLU is an affine node
and a rectifier. Weights are read when the rule is called, so gradients flow to them. A layer
without a rule is refused, never skipped.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from hydra_tf.bounds.rules.convolution import transpose_of
from hydra_tf.bounds.rules.merging import Shapes, difference, merge
from hydra_tf.bounds.rules.nodes import Affine, Node, Rectifier
from hydra_tf.bounds.rules.pooling import MaxPool
from hydra_tf.checks.models import is_probability
from hydra_tf.core.lazy import keras, tf

Rule = Callable[[Any, Shapes], "list[Node]"]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Return a decorator that enters a rule for the classes of ``keras.layers`` so named."""

    def enter(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return enter


@functools.cache
def rules() -> dict[Any, Rule]:
    """The table: layer class -> rule. Masked layers share the rules of the plain ones.

    A rule for a layer of your own may be entered here. Subclasses do not inherit rules: they
    may compute something else.

    Example:
        >>> rules()[keras.layers.Dense] is dense
        True
    """
    from hydra_tf.layers import MASKED

    table = {getattr(keras.layers, name): found for name, found in _RULES.items()}
    table |= {masked: table[plain] for plain, masked in MASKED.items() if plain in table}
    one = keras.Input([1])
    for made, found in (
        (one + one, merge), (one - one, difference), (keras.ops.relu(one), relu),
        (keras.activations.relu(one), relu), (keras.ops.leaky_relu(one), _rectifier),
    ):  # fmt: skip
        table[type(keras.Model(one, made).operations[-1])] = found  # Keras exports no class
    return table


def require_rule(layer: Any) -> Rule:
    """Return the rule of a layer.

    Raises:
        ValueError: naming the layer, and what is supported.

    Example:
        >>> require_rule(keras.layers.Add()) is merge
        True
    """
    kind = type(layer).__name__
    if type(layer) not in rules():
        if is_probability(kind):
            raise ValueError(_ends_in_probabilities(layer))
        raise ValueError(
            f'There is no bound rule for layer "{layer.name}" ({kind}); supported are '
            f"{', '.join(sorted(_RULES))}, their masked twins, and the operations +, -, relu and "
            "leaky_relu."
        )
    if getattr(layer, "compute_dtype", "float32") != "float32":
        raise ValueError(
            f'Layer "{layer.name}" computes in {layer.compute_dtype}, but bounds hold for float32 '
            "networks; build the model under the float32 policy."
        )
    if getattr(layer, "quantization_mode", None):
        raise ValueError(f'Layer "{layer.name}" is quantized; bound the network before that.')
    return rules()[type(layer)]


def _ends_in_probabilities(layer: Any) -> str:
    return (
        f'Layer "{layer.name}" turns logits into probabilities, but bounds are on logits; remove '
        "the softmax or sigmoid, or give the layer activation=None."
    )


def _activated(layer: Any, nodes: list[Node]) -> list[Node]:
    """The nodes of a layer, then those of its activation."""
    function = layer.activation
    if isinstance(function, keras.layers.Layer):
        return nodes + require_rule(function)(function, ())
    known: dict[Any, list[Node]] = {
        None: [],
        keras.activations.linear: [],
        keras.activations.relu: [Rectifier()],
        keras.activations.leaky_relu: [Rectifier(0.2)],  # the slope of Keras's function
    }
    if function in known:
        return nodes + known[function]
    name = getattr(function, "__name__", type(function).__name__)
    if is_probability(name):
        raise ValueError(_ends_in_probabilities(layer))
    raise ValueError(
        f'There is no bound rule for the activation "{name}" of layer "{layer.name}"; supported '
        "are linear, relu and leaky_relu."
    )


def _kernel(layer: Any) -> Any:
    return layer.masked_kernel() if hasattr(layer, "masked_kernel") else _tensor(layer.kernel)


def _tensor(weight: Any) -> Any:
    return tf.convert_to_tensor(weight, tf.float32)


def _kernel_node(
    layer: Any,
    apply: Callable[[Any, Any], Any],
    terms: int,
    fan_out: int,
    transpose: Callable[[Any, Any, list[Any]], Any] | None = None,
) -> Affine:
    """An affine node that applies a kernel and adds the bias along the channels."""
    kernel, bias = _kernel(layer), None
    magnitudes = tf.abs(kernel)
    if layer.bias is not None:
        bias = _tensor(layer.bias)
        if getattr(layer, "data_format", None) == "channels_first":
            bias = tf.reshape(bias, [-1] + [1] * layer.rank)

    def back(rows: Any, sizes: list[Any]) -> Any:
        return transpose(rows, kernel, sizes) if transpose else None

    return Affine(
        lambda x: apply(x, kernel),
        lambda x: apply(x, magnitudes),
        bias,
        None if bias is None else tf.abs(bias),
        terms + 1,
        fan_out,
        transpose=back if transpose else None,
    )


@rule("Dense")
def dense(layer: Any, shapes: Shapes) -> list[Node]:
    """``activation(x @ kernel + bias)``."""
    inputs, units = layer.kernel.shape
    return _activated(layer, [_kernel_node(layer, keras.ops.matmul, inputs, units)])


@rule("Conv1D", "Conv2D", "Conv3D")
def convolution(layer: Any, shapes: Shapes) -> list[Node]:
    """Convolution of any padding, stride, dilation and number of groups."""
    how = _window_options(layer)
    past = 0
    if layer.padding == "causal":
        past, how["padding"] = layer.dilation_rate[0] * (layer.kernel_size[0] - 1), "valid"

    def apply(x: Any, kernel: Any) -> Any:
        if past:
            last = layer.data_format == "channels_last"
            x = tf.pad(x, [(0, 0), (past, 0), (0, 0)] if last else [(0, 0), (0, 0), (past, 0)])
        return keras.ops.conv(x, kernel, **how)

    shape = layer.kernel.shape
    size, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    transpose = transpose_of(how, shape, layer.groups)
    return _activated(layer, [_kernel_node(layer, apply, size, fan_out, transpose)])


@rule("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(layer: Any, shapes: Shapes) -> list[Node]:
    """A convolution of each channel by itself."""
    how = _window_options(layer)
    shape = layer.kernel.shape
    node = _kernel_node(
        layer,
        lambda x, kernel: keras.ops.depthwise_conv(x, kernel, **how),
        math.prod(shape[:-2]),
        math.prod(shape[:-2]) * shape[-1],
    )
    return _activated(layer, [node])


def _window_options(layer: Any) -> dict[str, Any]:
    return {
        "strides": tuple(layer.strides),
        "padding": layer.padding,
        "dilation_rate": tuple(layer.dilation_rate),
        "data_format": layer.data_format,
    }


def _scaled(scale: Any, shift: Any, magnitude: Any) -> list[Node]:
    """``scale * x + shift``, a few operations a value."""
    return [
        Affine(
            lambda x: x * scale,
            lambda x: x * tf.abs(scale),
            shift,
            magnitude,
            terms=12,  # the square root and the quotient in the scale included
            fan_out=12,
            diagonal=True,
        )
    ]


@rule("BatchNormalization")
def batch_normalization(layer: Any, shapes: Shapes) -> list[Node]:
    """With its moving statistics, as in inference."""
    mean, beta = _tensor(layer.moving_mean), _tensor(layer.beta) if layer.center else 0.0
    scale = tf.math.rsqrt(_tensor(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale *= _tensor(layer.gamma)
    shift, magnitude = beta - mean * scale, tf.abs(beta) + tf.abs(mean * scale)
    shape = [1] * (len(shapes[0]) - 1)
    shape[layer.axis if layer.axis < 0 else layer.axis - 1] = -1
    return _scaled(*(tf.reshape(part, shape) for part in (scale, shift, magnitude)))


@rule("Normalization")
def normalization(layer: Any, shapes: Shapes) -> list[Node]:
    """``(x - mean) / deviation``, or its inverse."""
    mean, variance = (_tensor(part)[0] for part in (layer.mean, layer.variance))
    deviation = tf.maximum(tf.sqrt(variance), keras.config.epsilon())
    scale, shift = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return _scaled(scale, shift, tf.abs(shift))


@rule("Rescaling")
def rescaling(layer: Any, shapes: Shapes) -> list[Node]:
    """``x * scale + offset``."""
    scale, offset = _tensor(layer.scale), _tensor(layer.offset)
    if len(scale.shape) and keras.config.image_data_format() == "channels_first":
        scale = tf.reshape(scale, [*scale.shape, *[1] * (3 - len(scale.shape))])
    return _scaled(scale, offset, tf.abs(offset))


@rule("ReLU")
def relu(layer: Any, shapes: Shapes) -> list[Node]:
    """Rectifier with any slope in [0, 1] below 0, as a layer or as an operation."""
    if getattr(layer, "max_value", None) is not None or getattr(layer, "threshold", None):
        raise ValueError(
            f'There is no bound rule for layer "{layer.name}" (ReLU) with a max_value or '
            "threshold; use a plain ReLU."
        )
    return _rectifier(layer, shapes)


@rule("LeakyReLU")
def _rectifier(layer: Any, shapes: Shapes) -> list[Node]:
    left = float(getattr(layer, "negative_slope", None) or 0.0)
    if not 0 <= left <= 1:
        raise ValueError(
            f'There is no bound rule for layer "{layer.name}" ({type(layer).__name__}) with '
            f"negative_slope={left}; it must lie in [0, 1]."
        )
    return [Rectifier(left)]


@rule("Activation")
def activation(layer: Any, shapes: Shapes) -> list[Node]:
    """The functions linear, relu and leaky_relu."""
    return _activated(layer, []) or identity(layer, shapes)


@rule(
    "Flatten", "Reshape", "Permute", "Concatenate", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D",
)  # fmt: skip
def move(layer: Any, shapes: Shapes) -> list[Node]:
    """Values that are moved about, or left out, or joined by zeros."""
    many = type(layer) is keras.layers.Concatenate
    linear = (lambda *x: layer(list(x))) if many else layer
    return [Affine(linear, linear, diagonal=True)]


@rule(
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout",
    "GaussianNoise", "ActivityRegularization", "Identity",
)  # fmt: skip
def identity(layer: Any, shapes: Shapes) -> list[Node]:
    """Layers that do nothing in inference."""
    return [Affine(tf.identity, tf.identity, diagonal=True)]


@rule("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def average_pooling(layer: Any, shapes: Shapes) -> list[Node]:
    """Means over windows, the padding left out."""
    size = math.prod(layer.pool_size)
    return [Affine(layer, layer, terms=size + 1, fan_out=2 * size)]


@rule("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
def global_average_pooling(layer: Any, shapes: Shapes) -> list[Node]:
    """Means over all places."""
    return [Affine(layer, layer, terms=_places(layer, shapes[0]) + 1, fan_out=2)]


def _places(layer: Any, shape: tuple[int | None, ...]) -> int:
    """Number of places of the images that a layer takes."""
    places = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    sizes = [size for size in places if size is not None]
    if len(sizes) < len(places):
        raise ValueError(
            f'Layer "{layer.name}" pools images of unknown size; give the model an Input of fixed '
            "height and width."
        )
    return math.prod(sizes)


@rule(
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
)  # fmt: skip
def max_pooling(layer: Any, shapes: Shapes) -> list[Node]:
    """The largest value of each window, or of each channel."""
    _places(layer, shapes[0])  # refuses an unknown number
    return [MaxPool(layer)]


rule("Add")(merge)
rule("Subtract")(difference)
