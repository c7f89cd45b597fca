"""Batch normalisation as part of the kernel before it (Jacob et al., CVPR 2018, section 3.2)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np

from hydra_tf.core.layer_calls import Call, functional_model
from hydra_tf.export.rebuilding import Edit, rebuild
from hydra_tf.sparsity.channel_flow import ChannelFlow, follow_channels
from hydra_tf.sparsity.channel_rules.registry import Mixing


def fold_batch_normalization(model: keras.Model) -> keras.Model:
    """Return a copy in which kernels directly before a batch normalisation include it.

    Only that of inference, with moving statistics, can be part of a kernel. A normalisation stays
    if another layer takes its input too, or if one of the two layers is shared.

    Args:
        model: a plain functional or Sequential model.

    Example:
        >>> conv = keras.layers.Conv1D(2, 3, use_bias=False)
        >>> net = keras.Sequential([keras.Input([8, 1]), conv, keras.layers.BatchNormalization()])
        >>> [type(layer).__name__ for layer in fold_batch_normalization(net).layers]
        ['InputLayer', 'Conv1D']
    """
    flow = follow_channels(model)
    edits, left_out = {}, set()
    for index, before in _pairs(flow).items():
        rule = flow.rules[before]
        axes = (rule.out_axis,) if isinstance(rule, Mixing) else (-2, -1)
        normalization, layer = flow.calls.calls[index].layer, flow.calls.calls[before].layer
        edits[before] = _folded(layer, normalization, axes)
        left_out.add(index)
    return rebuild(functional_model(model), flow.calls, edits, frozenset(left_out))


def _pairs(flow: ChannelFlow) -> dict[int, int]:
    """Return the indices of calls of batch normalisation, and of the kernels before them."""
    calls, first = flow.calls.calls, flow.calls.inputs
    times_called = Counter(id(call.layer) for call in calls)
    times_used = Counter([*(n for call in calls for n in call.sources), *flow.calls.outputs])
    pairs = {}
    for index, call in enumerate(calls):
        before = call.sources[0] - first
        if (
            isinstance(call.layer, keras.layers.BatchNormalization)
            and flow.rules[index] is not None
            and before >= 0
            and times_used[call.sources[0]] == 1
            and times_called[id(call.layer)] == times_called[id(calls[before].layer)] == 1
            and _is_linear_kernel(calls[before], flow.rules[before])
        ):
            pairs[index] = before
    return pairs


def _is_linear_kernel(call: Call, rule: Any) -> bool:
    """Return whether a call is that of a kernel without an activation."""
    known = rule is not None and hasattr(call.layer, "kernel")
    return known and getattr(call.layer, "activation", None) in (None, keras.activations.linear)


def _folded(layer: Any, normalization: Any, axes: tuple[int, ...]) -> Edit:
    """Return the change of a layer that includes a normalisation.

    Args:
        layer: the layer with the kernel.
        normalization: the normalisation after it.
        axes: axes of the kernel that make up the output channels.
    """
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
    size = int(np.prod([kernel.shape[axis] for axis in axes]))

    def read(variable: Any, default: float) -> Any:
        if variable is None:
            return np.full(size, default)
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)

    deviation = np.sqrt(read(normalization.moving_variance, 1.0) + normalization.epsilon)
    scale = read(normalization.gamma, 1.0) / deviation
    shape = [1] * kernel.ndim
    for axis in axes:
        shape[axis] = kernel.shape[axis]
    offset = read(layer.bias, 0.0) - read(normalization.moving_mean, 0.0)
    weights = {
        "kernel": kernel * scale.reshape(shape),
        "bias": offset * scale + read(normalization.beta, 0.0),
    }
    return Edit({"use_bias": True}, weights)
