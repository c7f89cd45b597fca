"""Which channels of a network are constant, and which ones have an effect on its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from hydra_tf.core.layer_calls import Call
from hydra_tf.sparsity.channel_flow import ChannelFlow
from hydra_tf.sparsity.channel_rules.registry import Mixing, PerChannel

Numbers: TypeAlias = NDArray[np.float64]
Booleans: TypeAlias = NDArray[np.bool_]

# Spread of a channel over space, as a share of its value, that is due to rounding.
_ROUNDING = 1e-6


def summed_kernel(layer: Any, rule: Mixing) -> tuple[Numbers, Booleans]:
    """Return the sums of a kernel over its window, and which of its weights are not all zero.

    Args:
        layer: a built layer with a kernel.
        rule: its rule.

    Returns:
        Two arrays [input channels, output channels], zero between different groups.

    Example:
        >>> layer = keras.layers.Conv1D(1, 2, kernel_initializer="ones")
        >>> layer.build([None, 8, 3])
        >>> summed_kernel(layer, Mixing(1, 2, "filters"))[0].tolist()
        [[2.0], [2.0], [2.0]]
    """
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
    kernel = np.moveaxis(kernel, (rule.in_axis, rule.out_axis), (-2, -1))
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    sums, used = kernel.sum(0), np.any(kernel, axis=0)
    if rule.groups == 1:
        return sums, used
    groups = np.repeat(np.arange(rule.groups), sums.shape[1] // rule.groups)
    inside = np.repeat(np.arange(rule.groups), sums.shape[0])[:, None] == groups
    repeats = (rule.groups, 1)
    return np.tile(sums, repeats) * inside, np.tile(used, repeats) & inside


@dataclass(frozen=True, eq=False)
class ConstantChannels:
    """The constant channels of a network.

    Args:
        numbers: for each value, the numbers of its constant channels, NaN for all others.
        padded: for each value, whether zeros surround the numbers.
    """

    numbers: list[Numbers]
    padded: list[bool]


def constant_channels(flow: ChannelFlow) -> ConstantChannels:
    """Return which channels are constant, and their numbers.

    A channel is constant if it has the same number everywhere in space, whatever the inputs of the
    network are. A padded convolution of constants other than 0 is not; constants with zeros around
    them count until the next layer.

    Args:
        flow: the channels of a network without masks.

    Example:
        >>> from hydra_tf.sparsity.channel_flow import follow_channels
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2), keras.layers.ReLU()])
        >>> net.set_weights([np.array([[0, 1], [0, 1]]), np.array([0.5, 0.5])])
        >>> [numbers.tolist() for numbers in constant_channels(follow_channels(net)).numbers]
        [[nan, nan], [0.5, nan], [0.5, nan]]
    """
    values = [np.full(len(flow.values[i]), np.nan) for i in range(flow.calls.inputs)]
    padded = [False] * flow.calls.inputs
    for call, rule in zip(flow.calls.calls, flow.rules, strict=True):
        sources = [
            np.where(values[source] == 0, 0, np.nan) if padded[source] else values[source]
            for source in call.sources
        ]
        padded.append(isinstance(rule, PerChannel) and rule.pads)
        if padded[-1]:
            values.append(sources[0])
        elif isinstance(rule, Mixing) and rule.elementwise:
            values.append(_mixed(call.layer, rule, sources[0]))
        elif isinstance(rule, PerChannel):
            values.append(_passed_on(call, rule, sources))
        else:
            values.append(np.full(len(flow.values[len(values)]), np.nan))
    return ConstantChannels(values, padded)


def _mixed(layer: Any, rule: Mixing, source: Numbers) -> Numbers:
    sums, used = summed_kernel(layer, rule)
    numbers = np.nan_to_num(source)
    changing = np.isnan(source) if rule.uniform else np.isnan(source) | (numbers != 0)
    totals = numbers @ sums if rule.uniform else np.zeros(sums.shape[1])
    if layer.bias is not None:
        totals = totals + keras.ops.convert_to_numpy(layer.bias)
    outputs = totals.astype(layer.compute_dtype)
    if layer.activation is not None:
        outputs = keras.ops.convert_to_numpy(layer.activation(keras.ops.convert_to_tensor(outputs)))
    constant = ~np.any(used[changing], axis=0) & np.isfinite(outputs)
    return np.where(constant, outputs, np.nan).astype(np.float64)


def _passed_on(call: Call, rule: PerChannel, sources: list[Numbers]) -> Numbers:
    constant = np.ones(len(rule.origins[0]), bool)
    for source, origin in zip(sources, rule.origins, strict=True):
        constant &= (origin < 0) | ~np.isnan(source[origin])
    if rule.ignored is not None:
        constant |= rule.ignored()
    if not np.any(constant):
        return np.full(len(constant), np.nan)
    tensors = [
        keras.ops.convert_to_tensor(
            np.broadcast_to(np.nan_to_num(source), (1, *(n or 1 for n in shape[1:]))).astype(
                "float32"
            )
        )
        for source, shape in zip(sources, call.shapes, strict=True)
    ]
    outputs = np.asarray(
        keras.ops.convert_to_numpy(call_layer(call.layer, tensors)), np.float64
    ).reshape(-1, len(constant))
    low, high = outputs.min(0), outputs.max(0)
    constant &= np.isfinite(outputs).all(0)
    constant &= high - low <= _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return np.where(constant, outputs[0], np.nan)


def call_layer(layer: Any, tensors: list[Any]) -> Any:
    """Return the output of a layer, which takes several tensors as a list, or of an operation.

    Args:
        layer: a layer or operation.
        tensors: what it is called on.

    Example:
        >>> ones = keras.ops.ones([1])
        >>> float(call_layer(keras.layers.Add(), [ones, ones])[0])
        2.0
    """
    if isinstance(layer, keras.layers.Layer) and len(tensors) > 1:
        return layer(tensors)
    return layer(*tensors)


def effective_channels(flow: ChannelFlow) -> list[Booleans]:
    """Return, for each value, which of its channels have an effect on an output of the network.

    A channel without effect is read by no weight other than 0, or only on the way to other
    channels without effect.

    Args:
        flow: the channels of a network without masks.

    Example:
        >>> from hydra_tf.sparsity.channel_flow import follow_channels
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, use_bias=False)])
        >>> net.set_weights([np.array([[0.0], [1.0]])])
        >>> effective_channels(follow_channels(net))[0].tolist()
        [False, True]
    """
    effective = [np.zeros(len(channels), bool) for channels in flow.values]
    for number in flow.calls.outputs:
        effective[number][:] = True
    last = len(flow.values)
    for call, rule in zip(reversed(flow.calls.calls), reversed(flow.rules), strict=True):
        last -= 1
        output = effective[last]
        if isinstance(rule, Mixing):
            output |= not rule.elementwise
            _, used = summed_kernel(call.layer, rule)
            effective[call.sources[0]] |= np.any(used[:, output], axis=1)
        elif isinstance(rule, PerChannel):
            read = output if rule.ignored is None else output & ~rule.ignored()
            for source, origin in zip(call.sources, rule.origins, strict=True):
                effective[source][origin[read & (origin >= 0)]] = True
        else:
            for source in call.sources:
                effective[source][:] = True
    return effective
