"""CROWN (Zhang et al., Efficient neural network robustness certification ..., NeurIPS 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.base import BOUNDS, Bound
from hydra_tf.bounds.engine import Bounded, Network, in_chunks, propagate
from hydra_tf.bounds.rounding import sizes
from hydra_tf.bounds.rules.nodes import Context, LowerSlope, adaptive
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval


@BOUNDS.register()
@dataclass(frozen=True)
class CROWN(Bound):
    """Linear bounds backwards for the input of every rectifier and for the outputs.

    Example:
        >>> CROWN().rounding
        True
    """

    def __call__(self, network: Network, box: Interval, specs: Any) -> Any:
        """Lower bounds of functions of the logits; see :class:`Bound`."""
        return self._backwards(network, box, specs, adaptive)

    def _backwards(self, network: Network, box: Interval, specs: Any, slope: LowerSlope) -> Any:
        context = Context(self.rounding, slope)
        bounded = propagate(network, box, context, lambda b, value: ends(b, value, self.chunk))
        return self._finish(bounded, specs, through=True)


def ends(bounded: Bounded, value: int, chunk: int | None) -> Interval:
    """Bounds from below and above on every element of one value, by going backwards from it."""
    samples, *shape = sizes(bounded.values[value].lower)
    size = math.prod(shape)

    # Where one way back serves an element and its negative, it is gone once.
    shared = all(node.odd(bounded.context) for node in bounded.network.nodes[:value])
    count, signs = (size, (1.0, -1.0)) if shared else (2 * size, (1.0,))

    def rows(indices: Any) -> Any:
        flat = tf.one_hot(indices % size, size)
        if not shared:
            flat *= tf.where(indices < size, 1.0, -1.0)[:, None]
        return tf.reshape(flat, [1, sizes(indices)[0], *shape])

    found = in_chunks(bounded, rows, count, value, True, chunk, signs)
    lower, upper = found[:, :size], -found[:, size:]
    return Interval(*(tf.reshape(each, [samples, *shape]) for each in (lower, upper)))
