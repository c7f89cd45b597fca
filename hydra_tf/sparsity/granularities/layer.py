"""Whole layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity


@GRANULARITIES.register()
@dataclass(frozen=True)
class Layer(Granularity):
    """The whole kernel, which is therefore never pruned.

    Example:
        >>> Layer().window((10, 8), "io")
        (10, 8)
    """

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return the shape of the kernel."""
        return tuple(shape)
