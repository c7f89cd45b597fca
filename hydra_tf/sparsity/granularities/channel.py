"""Input channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity


@GRANULARITIES.register()
@dataclass(frozen=True)
class Channel(Granularity):
    """All weights of one input channel of a convolution, or of one input of a dense layer.

    Example:
        >>> Channel().window((3, 3, 16, 32), "ssio")
        (3, 3, 1, 32)
    """

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return ones for the axes of inputs, and the sizes of the others."""
        return tuple(1 if axis in "ic" else size for size, axis in zip(shape, axes, strict=True))
