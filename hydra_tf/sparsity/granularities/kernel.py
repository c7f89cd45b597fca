"""Spatial filters of one input and one output channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity


@GRANULARITIES.register()
@dataclass(frozen=True)
class Kernel(Granularity):
    """All spatial positions of one input and one output channel of a convolution.

    Layers without spatial positions, such as dense ones, keep single weights.

    Example:
        >>> Kernel().window((3, 3, 16, 32), "ssio")
        (3, 3, 1, 1)
    """

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return the sizes of the spatial axes, and ones."""
        return tuple(size if axis == "s" else 1 for size, axis in zip(shape, axes, strict=True))
