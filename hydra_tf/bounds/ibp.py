"""Bounds on intervals: interval bound propagation and CROWN-IBP."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.bounds.base import BOUNDS, Bound
from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.bounds.propagation import propagate
from hydra_tf.bounds.rules.nodes import BoundOptions
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval


@BOUNDS.register("ibp")
@dataclass(frozen=True)
class IBP(Bound):
    """Intervals through every layer, with the specification merged into the last affine layers.

    Interval bound propagation (Gowal et al., 2018; Mirman et al., ICML 2018) is the cheapest
    method and, on networks that were not trained for it, the loosest. VRA-t of arXiv 2002.10509
    is computed with it.

    Example:
        >>> IBP(rounding=False).rounding
        False
    """

    def __call__(self, graph: LayerGraph, box: Interval, specifications: tf.Tensor) -> tf.Tensor:
        """Return lower bounds of functions of the logits; see :class:`Bound`."""
        bounded = propagate(graph, box, BoundOptions(self.rounding))
        return self._lower_bounds(bounded, specifications, to_input=False)


@BOUNDS.register("crown_ibp")
@dataclass(frozen=True)
class CROWNIBP(Bound):
    """Intervals forwards for the hidden layers, one linear bound backwards for the outputs.

    Zhang et al., Towards stable and efficient training of verifiably robust neural networks,
    ICLR 2020.

    Example:
        >>> CROWNIBP(chunk=256).chunk
        256
    """

    def __call__(self, graph: LayerGraph, box: Interval, specifications: tf.Tensor) -> tf.Tensor:
        """Return lower bounds of functions of the logits; see :class:`Bound`."""
        bounded = propagate(graph, box, BoundOptions(self.rounding))
        return self._lower_bounds(bounded, specifications, to_input=True)
