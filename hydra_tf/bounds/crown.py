"""Bounds by linear relaxation of every layer: CROWN and symbolic linear relaxation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hydra_tf.bounds.base import BOUNDS, Bound
from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.bounds.propagation import BoundedGraph, chunked_lower_bounds, propagate
from hydra_tf.bounds.rounding import sizes
from hydra_tf.bounds.rules.nodes import BoundOptions, LowerSlope, adaptive, parallel
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval


@BOUNDS.register("crown")
@dataclass(frozen=True)
class CROWN(Bound):
    """Linear bounds backwards for the input of every rectifier and for the outputs.

    Zhang et al., Efficient neural network robustness certification with general activation
    functions, NeurIPS 2018.

    Example:
        >>> CROWN().rounding
        True
    """

    def __call__(self, graph: LayerGraph, box: Interval, specifications: tf.Tensor) -> tf.Tensor:
        """Return lower bounds of functions of the logits; see :class:`Bound`."""
        return self._backward_bounds(graph, box, specifications, adaptive)

    def _backward_bounds(
        self, graph: LayerGraph, box: Interval, specifications: tf.Tensor, slope: LowerSlope
    ) -> tf.Tensor:
        options = BoundOptions(self.rounding, slope)
        bounded = propagate(
            graph, box, options, lambda b, value: backward_interval(b, value, self.chunk)
        )
        return self._lower_bounds(bounded, specifications, to_input=True)


@BOUNDS.register("symbolic")
@dataclass(frozen=True)
class Symbolic(CROWN):
    """Two parallel lines around each rectifier whose input may have either sign.

    The symbolic linear relaxation of Neurify (Wang et al., NeurIPS 2018), which MixTrain and
    VRA-m use (arXiv 2002.10509, section 4).

    Example:
        >>> Symbolic(rounding=False).chunk is None
        True
    """

    def __call__(self, graph: LayerGraph, box: Interval, specifications: tf.Tensor) -> tf.Tensor:
        """Return lower bounds of functions of the logits; see :class:`Bound`."""
        return self._backward_bounds(graph, box, specifications, parallel)


def backward_interval(bounded: BoundedGraph, value: int, chunk: int | None) -> Interval:
    """Return lower and upper bounds on every element of one value, from backward passes."""
    samples, *shape = sizes(bounded.values[value].lower)
    size = math.prod(shape)

    # If all nodes are odd, one backward pass bounds an element and its negation.
    odd = all(node.odd(bounded.options) for node in bounded.graph.nodes[:value])
    count, signs = (size, (1.0, -1.0)) if odd else (2 * size, (1.0,))

    def rows(indices: tf.Tensor) -> tf.Tensor:
        flat = tf.one_hot(indices % size, size)
        if not odd:
            flat *= tf.where(indices < size, 1.0, -1.0)[:, None]
        return tf.reshape(flat, [1, sizes(indices)[0], *shape])

    stacked = chunked_lower_bounds(bounded, rows, count, value, True, chunk, signs)
    lower, upper = stacked[:, :size], -stacked[:, size:]
    return Interval(*(tf.reshape(side, [samples, *shape]) for side in (lower, upper)))
