"""Interval bound propagation (Gowal et al., 2018; Mirman et al., ICML 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.base import BOUNDS, Bound
from hydra_tf.bounds.engine import Network, propagate
from hydra_tf.bounds.rules.nodes import Context
from hydra_tf.core.types import Interval


@BOUNDS.register()
@dataclass(frozen=True)
class IBP(Bound):
    """Intervals through every layer, and the specification merged into the last affine ones.

    The cheapest and, on networks that were not trained for it, the loosest of the bounds.
    VRA-t of arXiv 2002.10509 rests on it.

    Example:
        >>> IBP(rounding=False).rounding
        False
    """

    def __call__(self, network: Network, box: Interval, specs: Any) -> Any:
        """Lower bounds of functions of the logits; see :class:`Bound`."""
        bounded = propagate(network, box, Context(self.rounding))
        return self._finish(bounded, specs, through=False)
