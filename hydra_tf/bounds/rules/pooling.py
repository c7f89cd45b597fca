"""Rules of pooling layers, and maximum pooling as a node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydra_tf.bounds.rounding import TINY, dot, gamma, magnitude, sizes
from hydra_tf.bounds.rules.nodes import Affine, BoundOptions, Constant, Node
from hydra_tf.bounds.rules.registry import Shapes, register_rule
from hydra_tf.core.lazy import keras, tf
from hydra_tf.core.types import Interval


@register_rule("layers.AveragePooling1D", "layers.AveragePooling2D", "layers.AveragePooling3D")
def average_pooling(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the node of means over windows, which leave out the padding."""
    size = math.prod(layer.pool_size)
    return [Affine(layer, layer, terms=size + 1, fan_out=2 * size)]


@register_rule(
    "layers.GlobalAveragePooling1D",
    "layers.GlobalAveragePooling2D",
    "layers.GlobalAveragePooling3D",
)
def global_average_pooling(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the node of means over all positions."""
    return [Affine(layer, layer, terms=_positions(layer, shapes[0]) + 1, fan_out=2)]


@register_rule(
    "layers.MaxPooling1D", "layers.MaxPooling2D", "layers.MaxPooling3D",
    "layers.GlobalMaxPooling1D", "layers.GlobalMaxPooling2D", "layers.GlobalMaxPooling3D",
)  # fmt: skip
def max_pooling(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the node of the largest value of each window, or of each channel."""
    _positions(layer, shapes[0])  # raises an error for an unknown size
    return [MaxPool(layer)]


def _positions(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> int:
    """Return the number of positions of the images that a layer pools."""
    positions = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    known = [size for size in positions if size is not None]
    if len(known) < len(positions):
        raise ValueError(
            f'Layer "{layer.name}" pools images of unknown size; give the model an Input of fixed '
            "height and width."
        )
    return math.prod(known)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """The largest value of each window.

    The linear lower bound of a window is its input with the largest lower bound. If no other input
    can exceed this one, it equals the window's value and is the linear upper bound too; otherwise
    the upper bound is a constant, the largest upper bound of the inputs.

    Args:
        layer: a max pooling layer of Keras, over windows or over all positions.
    """

    layer: keras.layers.Layer
    affine: bool = False
    diagonal: bool = False

    def interval(self, inputs: Sequence[Interval], options: BoundOptions) -> Interval:
        """Return the largest lower and the largest upper bounds; exact in float32."""
        return Interval(self.layer(inputs[0].lower), self.layer(inputs[0].upper))

    def odd(self, options: BoundOptions) -> bool:
        """Return False: the upper bound may be a constant while the lower bound is an input."""
        return False

    def backward(
        self, rows: tf.Tensor, inputs: Sequence[Interval], options: BoundOptions
    ) -> tuple[list[tf.Tensor], Constant | None]:
        """Return coefficients on the chosen inputs, and the sum of constant upper bounds."""
        # Finite, so that padding is not chosen in a window that has overflowed.
        lows = self._windows(tf.maximum(inputs[0].lower, tf.float32.min), 1, -np.inf)
        highs = self._windows(inputs[0].upper, 1, -np.inf)
        size = lows.shape[1] or tf.shape(lows)[1]
        chosen = tf.one_hot(tf.argmax(lows, 1), size, True, False, axis=1)
        largest_other = tf.reduce_max(tf.where(chosen, -np.inf, highs), 1)
        decided = tf.reduce_max(lows, 1) >= largest_other
        ceiling = tf.where(decided, 0.0, tf.reduce_max(highs, 1))
        followed = tf.where((rows < 0) & ~decided[:, None], 0.0, rows)

        # `rows` may be shared by all samples, `followed` is not.
        zeros = tf.zeros([*sizes(followed)[:2], *sizes(inputs[0].lower)[1:]])
        mask = tf.cast(chosen, tf.float32)[:, None]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(zeros)
            values = tf.reduce_sum(self._windows(zeros, 2, 0.0) * mask, 2)
        coefficients = tape.gradient(values, zeros, output_gradients=followed)
        constant = dot(tf.minimum(rows, 0.0), ceiling, options.rounding)
        return [coefficients], lambda sign: constant

    def rounding_error(self, inputs: Sequence[Interval], consumers: int) -> tf.Tensor:
        """Return the error of adding the coefficients of overlapping windows."""
        overlaps = math.prod(getattr(self.layer, "pool_size", (1,)))
        return 1.05 * gamma(overlaps + consumers + 4) * self.layer(magnitude(inputs[0])) + TINY

    def _windows(self, x: tf.Tensor, lead: int, fill: float) -> tf.Tensor:
        """Return the inputs of every window, [*leading axes, inputs, *outputs]."""
        layer = self.layer
        channels_first = layer.data_format == "channels_first"
        rank = len(x.shape) - lead - 1
        spatial = range(lead + channels_first, lead + channels_first + rank)
        if not hasattr(layer, "pool_size"):
            return self._global_window(x, lead, rank, channels_first)
        counts, pads = [], [(0, 0)] * len(x.shape)
        for axis, size, stride in zip(spatial, layer.pool_size, layer.strides, strict=True):
            length = x.shape[axis]
            if layer.padding == "same":
                counts.append(-(-length // stride))
                missing = max((counts[-1] - 1) * stride + size - length, 0)
                pads[axis] = (missing // 2, missing - missing // 2)
            else:
                counts.append((length - size) // stride + 1)
        x = tf.pad(x, pads, constant_values=fill)
        slices = []
        for offset in np.ndindex(*layer.pool_size):
            cut = [slice(None)] * len(x.shape)
            axes = zip(spatial, offset, counts, layer.strides, strict=True)
            for axis, start, count, stride in axes:
                cut[axis] = slice(start, start + (count - 1) * stride + 1, stride)
            slices.append(x[tuple(cut)])
        return tf.stack(slices, axis=lead)

    def _global_window(self, x: tf.Tensor, lead: int, rank: int, channels_first: bool) -> tf.Tensor:
        """Return all positions of each channel as one window."""
        *outer, a, b = [*sizes(x)[:lead], *_flat_sizes(x.shape[lead:], channels_first)]
        flat = tf.reshape(x, [*outer, a, b])
        ones = [1] * rank if self.layer.keepdims else []
        if channels_first:
            return tf.reshape(tf.linalg.matrix_transpose(flat), [*outer, b, a, *ones])
        return tf.reshape(flat, [*outer, a, *ones, b])


def _flat_sizes(shape: tf.TensorShape, channels_first: bool) -> tuple[int, int]:
    """Return the sizes of an image whose spatial axes are flattened into one."""
    if channels_first:
        return shape[0], math.prod(shape[1:])
    return math.prod(shape[:-1]), shape[-1]
