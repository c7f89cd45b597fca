"""Symbolic linear relaxation (Neurify; Wang et al., NeurIPS 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.base import BOUNDS
from hydra_tf.bounds.crown import CROWN
from hydra_tf.bounds.engine import Network
from hydra_tf.bounds.rules.nodes import parallel
from hydra_tf.core.types import Interval


@BOUNDS.register()
@dataclass(frozen=True)
class Symbolic(CROWN):
    """Two parallel lines around each rectifier that may be on either side of 0.

    The bound of MixTrain and of VRA-m (arXiv 2002.10509, section 4).

    Example:
        >>> Symbolic(rounding=False).chunk is None
        True
    """

    def __call__(self, network: Network, box: Interval, specs: Any) -> Any:
        """Lower bounds of functions of the logits; see :class:`Bound`."""
        return self._backwards(network, box, specs, parallel)
