"""CROWN-IBP (Zhang et al., Towards stable and efficient training ..., ICLR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.base import BOUNDS, Bound
from hydra_tf.bounds.engine import Network, propagate
from hydra_tf.bounds.rules.nodes import Context
from hydra_tf.core.types import Interval


@BOUNDS.register()
@dataclass(frozen=True)
class CROWNIBP(Bound):
    """Intervals forwards for the hidden layers, one linear bound backwards for the outputs.

    Example:
        >>> CROWNIBP(chunk=256).chunk
        256
    """

    def __call__(self, network: Network, box: Interval, specs: Any) -> Any:
        """Lower bounds of functions of the logits; see :class:`Bound`."""
        bounded = propagate(network, box, Context(self.rounding))
        return self._finish(bounded, specs, through=True)
