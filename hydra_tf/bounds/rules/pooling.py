"""Maximum pooling as a node of the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.bounds.rounding import TINY, dot, gamma, magnitude, sizes
from hydra_tf.bounds.rules.nodes import Constant, Context
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval


@dataclass(frozen=True, eq=False)
class MaxPool:
    """The largest value of each window.

    Backwards a window is bounded from below by its input of the largest lower bound, which is
    the window's value itself where no other input can exceed it. Elsewhere it is bounded from
    above by the largest upper bound.

    Args:
        layer: a max pooling layer of Keras, over windows or over all places.
    """

    layer: Any
    affine: bool = False
    diagonal: bool = False

    def interval(self, inputs: Sequence[Interval], context: Context) -> Interval:
        """The largest of the lower and of the upper ends; exact in float32."""
        return Interval(self.layer(inputs[0].lower), self.layer(inputs[0].upper))

    def odd(self, context: Context) -> bool:
        """Not: the bound above is a constant, that below an input."""
        return False

    def backward(
        self, rows: Any, inputs: Sequence[Interval], context: Context
    ) -> tuple[list[Any], Constant | None]:
        """Coefficients go to the chosen inputs; upper bounds that are constants are summed."""
        # Finite, lest the padding be chosen in a window that has overflowed.
        lows = self._windows(tf.maximum(inputs[0].lower, tf.float32.min), 1, -np.inf)
        highs = self._windows(inputs[0].upper, 1, -np.inf)
        size = lows.shape[1] or tf.shape(lows)[1]
        chosen = tf.one_hot(tf.argmax(lows, 1), size, True, False, axis=1)
        rest = tf.reduce_max(tf.where(chosen, -np.inf, highs), 1)
        decided = tf.reduce_max(lows, 1) >= rest
        ceiling = tf.where(decided, 0.0, tf.reduce_max(highs, 1))
        kept = tf.where((rows < 0) & ~decided[:, None], 0.0, rows)

        # In the shape of `kept`, not of `rows`, which all samples may share.
        zeros = tf.zeros([*sizes(kept)[:2], *sizes(inputs[0].lower)[1:]])
        mask = tf.cast(chosen, tf.float32)[:, None]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(zeros)
            values = tf.reduce_sum(self._windows(zeros, 2, 0.0) * mask, 2)
        found = tape.gradient(values, zeros, output_gradients=kept)
        constant = dot(tf.minimum(rows, 0.0), ceiling, context.rounding)
        return [found], lambda sign: constant

    def error(self, inputs: Sequence[Interval], uses: int) -> Any:
        """Coefficients of overlapping windows are added."""
        overlaps = math.prod(getattr(self.layer, "pool_size", (1,)))
        return 1.05 * gamma(overlaps + uses + 4) * self.layer(magnitude(inputs[0])) + TINY

    def _windows(self, x: Any, lead: int, fill: float) -> Any:
        """The inputs of every window, [*leading axes, inputs, *outputs]."""
        layer = self.layer
        first = layer.data_format == "channels_first"
        rank = len(x.shape) - lead - 1
        spatial = range(lead + first, lead + first + rank)
        if not hasattr(layer, "pool_size"):
            return self._everywhere(x, lead, rank, first)
        counts, pads = [], [(0, 0)] * len(x.shape)
        for axis, size, step in zip(spatial, layer.pool_size, layer.strides, strict=True):
            places = x.shape[axis]
            if layer.padding == "same":
                counts.append(-(-places // step))
                missing = max((counts[-1] - 1) * step + size - places, 0)
                pads[axis] = (missing // 2, missing - missing // 2)
            else:
                counts.append((places - size) // step + 1)
        x = tf.pad(x, pads, constant_values=fill)
        parts = []
        for offset in np.ndindex(*layer.pool_size):
            cut = [slice(None)] * len(x.shape)
            axes = zip(spatial, offset, counts, layer.strides, strict=True)
            for axis, start, count, step in axes:
                cut[axis] = slice(start, start + (count - 1) * step + 1, step)
            parts.append(x[tuple(cut)])
        return tf.stack(parts, axis=lead)

    def _everywhere(self, x: Any, lead: int, rank: int, first: bool) -> Any:
        """All places of each channel as one window."""
        *outer, a, b = [*sizes(x)[:lead], *_two(x.shape[lead:], first)]
        flat = tf.reshape(x, [*outer, a, b])
        ones = [1] * rank if self.layer.keepdims else []
        if first:
            return tf.reshape(tf.linalg.matrix_transpose(flat), [*outer, b, a, *ones])
        return tf.reshape(flat, [*outer, a, *ones, b])


def _two(shape: Any, first: bool) -> tuple[int, int]:
    """Sizes of an image with all places in one axis."""
    if first:
        return shape[0], math.prod(shape[1:])
    return math.prod(shape[:-1]), shape[-1]
