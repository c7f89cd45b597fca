"""The best of all methods on every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.base import BOUNDS, Bound
from hydra_tf.bounds.engine import Network
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

PARTS = ("ibp", "crown_ibp", "crown", "symbolic")


@BOUNDS.register()
@dataclass(frozen=True)
class Tightest(Bound):
    """The intersection of ``ibp``, ``crown_ibp``, ``crown`` and ``symbolic``.

    None of them is the tightest on every sample, and each of them holds.

    Example:
        >>> Tightest().rounding
        True
    """

    def __call__(self, network: Network, box: Interval, specs: Any) -> Any:
        """Lower bounds of functions of the logits; see :class:`Bound`."""
        found = [
            BOUNDS.build(name, rounding=self.rounding, chunk=self.chunk)(network, box, specs)
            for name in PARTS
        ]
        return tf.reduce_max(tf.stack(found), axis=0)
