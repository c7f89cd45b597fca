"""A smaller network with the same outputs, without the channels that pruning has made useless."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hydra_tf.core.layer_calls import functional_model
from hydra_tf.export.batchnorm_folding import fold_batch_normalization
from hydra_tf.export.channel_removal import Removal, plan_removal
from hydra_tf.export.rebuilding import Edit, rebuild
from hydra_tf.models.masking import strip_masks
from hydra_tf.sparsity.channel_flow import ChannelFlow, follow_channels
from hydra_tf.sparsity.channel_rules.registry import Mixing, supported_layers


def compact(model: keras.Model, fold_batchnorm: bool = False) -> keras.Model:
    """Return a smaller plain model with the same outputs, without channels that have no effect.

    A channel is removed if it is constant, because its weights are zero, or if all weights that
    read it are zero, and likewise those that only such channels depend on. Constants become part
    of biases; where a convolution pads with zeros, one constant channel is kept instead of all.
    Each layer keeps at least one channel. Models inside the model become part of it.

    Args:
        model: masked or plain functional or Sequential model with fixed input shapes, or a
            :class:`hydra_tf.RobustModel`.
        fold_batchnorm: whether to fold batch normalisation into the convolution or dense layer
            before it.

    Returns:
        A new functional Keras model. Its outputs differ by rounding errors.

    Raises:
        TypeError: for a subclassed model.
        ValueError: for a model whose input shapes are not fixed, a layer of several inputs
            without a channel rule, a layer that is called with more than tensors, or one that
            cannot be copied.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(8), keras.layers.Dense(2)])
        >>> kernel, *others = net.get_weights()
        >>> kernel[:, 3:] = 0
        >>> net.set_weights([kernel, *others])
        >>> compact(net).layers[1].units
        3
    """
    plain = strip_masks(model)
    for tensor in plain.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"The model has an input of shape {tuple(tensor.shape[1:])}, which is not fixed; "
                "build it with a number in every position."
            )
    if fold_batchnorm:
        plain = fold_batch_normalization(plain)
    flow = follow_channels(plain)
    _require_rules_for_merges(flow)
    removal = plan_removal(flow)
    return rebuild(functional_model(plain), flow.calls, _edits(flow, removal))


def _require_rules_for_merges(flow: ChannelFlow) -> None:
    for call, rule in zip(flow.calls.calls, flow.rules, strict=True):
        if rule is None and len(call.sources) > 1:
            raise ValueError(
                f'The channels of layer "{call.layer.name}" ({type(call.layer).__name__}), which '
                f"has several inputs, cannot be followed; supported are {supported_layers()}."
            )


def _edits(flow: ChannelFlow, removal: Removal) -> dict[int, Edit]:
    """Return the changes of all calls by their indices."""
    readers = {id(reader.layer): reader for reader in removal.readers}
    edits = {}
    for index, (call, rule) in enumerate(zip(flow.calls.calls, flow.rules, strict=True)):
        outputs = removal.kept[flow.values[flow.calls.inputs + index]]
        config: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        if isinstance(rule, Mixing):
            kernel, bias = removal.kernel_and_bias(readers[id(call.layer)])
            config = {rule.size_field: int(outputs.sum())}
            weights = {"kernel": kernel}
            if bias is not None:
                config["use_bias"] = True
                weights["bias"] = bias[outputs] if call.layer.bias is None else bias
        elif rule is not None and rule.resized is not None:
            shape = call.layer.compute_output_shape(call.shapes[0])[1:-1]
            config = {rule.resized: (*shape, int(outputs.sum()))}
        edits[index] = Edit(config, _selected(flow, removal, call.layer, weights))
    return edits


def _selected(
    flow: ChannelFlow, removal: Removal, layer: Any, weights: dict[str, Any]
) -> dict[str, Any]:
    """Return the weights of a layer, those given or its own, at the positions that are kept."""
    weights = dict(weights)
    for axis in flow.axes:
        if axis.layer is layer:
            value = weights.get(axis.name)
            if value is None:
                value = keras.ops.convert_to_numpy(getattr(layer, axis.name))
            kept = np.flatnonzero(removal.kept[axis.channels])
            weights[axis.name] = np.take(value, kept, axis=axis.axis)
    return weights
