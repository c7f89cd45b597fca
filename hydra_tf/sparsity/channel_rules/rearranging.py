"""Channel rules of layers that change shapes; one channel may become several."""

from __future__ import annotations

import math

import numpy as np

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.channel_rules.registry import PerChannel, Shapes, register_channel_rule


@register_channel_rule("layers.Flatten")
def flatten(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that the channels repeat for every position in space."""
    shape = [n or 0 for n in shapes[0][1:]]
    if 0 in shape or (layer.data_format == "channels_first" and len(shape) > 1):
        return None
    return _reshaped(shape, (math.prod(shape),), None)


@register_channel_rule("layers.Reshape")
def reshape(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return which channels the last axis of the new shape has, if these agree everywhere."""
    shape = [n or 0 for n in shapes[0][1:]]
    if 0 in shape:
        return None
    target = layer.compute_output_shape(shapes[0])[1:]
    return _reshaped(shape, target, "target_shape")


def _reshaped(shape: list[int], target: tuple[int, ...], resized: str | None) -> PerChannel | None:
    channels = np.broadcast_to(np.arange(shape[-1]), shape).reshape(target)
    origin = channels.reshape(-1, target[-1])[0]
    return PerChannel((origin,), resized=resized) if np.all(channels == origin) else None
