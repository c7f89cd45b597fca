"""The best of all methods on every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.bounds.base import BOUNDS, Bound
from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval


@BOUNDS.register("tightest")
@dataclass(frozen=True)
class Tightest(Bound):
    """The largest lower bound of all registered methods, such as ``ibp`` and ``crown``.

    Each method is sound, and none is the tightest on every sample.

    Example:
        >>> Tightest().rounding
        True
    """

    combines_others: ClassVar[bool] = True

    def __call__(self, graph: LayerGraph, box: Interval, specifications: tf.Tensor) -> tf.Tensor:
        """Return lower bounds of functions of the logits; see :class:`Bound`."""
        options = {"rounding": self.rounding, "chunk": self.chunk}
        methods = [BOUNDS.build(name, **options) for name in BOUNDS.names()]
        lower = [
            method(graph, box, specifications)
            for method in methods
            if not getattr(method, "combines_others", False)
        ]
        return tf.reduce_max(tf.stack(lower), axis=0)
