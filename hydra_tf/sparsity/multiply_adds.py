"""The multiply-adds of each weight, from the shapes of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hydra_tf.core.keras_models import wrapped_network
from hydra_tf.core.layer_calls import Call, read_calls
from hydra_tf.core.lazy import keras


def weight_costs(model: keras.Model, layers: Sequence[Any]) -> list[int]:
    """Return the number of multiply-adds per image of one weight of each layer.

    A weight of a convolution is used once at each position of the output, and one of a dense layer
    once for each input vector. If a layer is called several times, all calls count.

    Args:
        model: a built functional or Sequential model, or a :class:`hydra_tf.RobustModel`.
        layers: dense layers and convolutions of the model.

    Raises:
        ValueError: for a layer of another kind, or one whose inputs vary in size.
        TypeError: for a subclassed model.

    Example:
        >>> conv, dense = keras.layers.Conv2D(2, 3), keras.layers.Dense(5)
        >>> net = keras.Sequential([keras.Input([8, 6, 1]), conv, keras.layers.Flatten(), dense])
        >>> weight_costs(net, [conv, dense])  # 6 x 4 positions
        [24, 1]
    """
    calls = read_calls(wrapped_network(model), lambda layer: None).calls
    costs = []
    for layer in layers:
        own = [_positions(call) for call in calls if call.layer is layer]
        known = [count for count in own if count is not None]
        if not own or len(known) < len(own):
            raise ValueError(
                f'The multiply-adds of the layer "{getattr(layer, "label", layer.name)}" are '
                "unknown: they are counted for Dense and convolutions whose inputs have a fixed "
                "size; use an allocation with budget=weights, or mask_model(exclude=...)."
            )
        costs.append(sum(known))
    return costs


def _positions(call: Call) -> int | None:
    """Return how often a call uses each weight of its layer for one image, None if unknown."""
    layers, layer, shape = keras.layers, call.layer, call.shapes[0]
    convolutions = (
        layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.DepthwiseConv1D, layers.DepthwiseConv2D
    )  # fmt: skip
    if isinstance(layer, layers.Dense):
        sizes: Sequence[int | None] = shape[1:-1]
    elif isinstance(layer, convolutions):
        outputs = layer.compute_output_shape(shape)
        sizes = outputs[1:-1] if layer.data_format == "channels_last" else outputs[2:]
    else:
        return None
    return None if None in sizes else math.prod(size for size in sizes if size is not None)
