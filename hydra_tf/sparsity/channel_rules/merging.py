"""Channel rules of layers and operations that combine several tensors."""

from __future__ import annotations

import numpy as np

from hydra_tf.core.lazy import keras
from hydra_tf.sparsity.channel_rules.registry import PerChannel, Shapes, register_channel_rule


@register_channel_rule(
    "layers.Add", "layers.Subtract", "layers.Multiply", "layers.Average", "layers.Maximum",
    "layers.Minimum", "ops.add", "ops.subtract", "ops.multiply", "ops.maximum", "ops.minimum",
)  # fmt: skip
def elementwise(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that each channel is computed from the same channel of all inputs.

    Inputs that are broadcast along the channels are not followed.
    """
    if len({len(shape) for shape in shapes}) > 1 or len({shape[-1] for shape in shapes}) > 1:
        return None
    return PerChannel(tuple(np.arange(shape[-1] or 0) for shape in shapes))


@register_channel_rule("layers.Concatenate")
def concatenate(layer: keras.layers.Layer, shapes: Shapes) -> PerChannel | None:
    """Return that the channels of the inputs follow one another.

    Along another axis, each channel is computed from the same channel of all inputs.
    """
    if layer.axis not in (-1, len(shapes[0]) - 1):
        return elementwise(layer, shapes)
    sizes = [shape[-1] or 0 for shape in shapes]
    ends = np.cumsum(sizes)
    origins = []
    for size, end in zip(sizes, ends, strict=True):
        origin = np.full(ends[-1], -1)
        origin[end - size : end] = np.arange(size)
        origins.append(origin)
    return PerChannel(tuple(origins))
