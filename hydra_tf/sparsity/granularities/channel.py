"""Input channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity


@GRANULARITIES.register()
@dataclass(frozen=True)
class Channel(Granularity):
    """All weights of one input channel of a convolution, or of one input of a dense layer.

    Layers that read the same channels keep the same ones, and a dense layer after Flatten keeps
    or prunes all positions of a channel, so that pruned channels can be removed; see
    :mod:`hydra_tf.sparsity.tied_channels`.

    Example:
        >>> Channel().window((3, 3, 16, 32), "ssio")
        (3, 3, 1, 32)
    """

    channel_axes: ClassVar[str] = "ic"

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return ones for the axes of inputs, and the sizes of the others."""
        return tuple(
            1 if axis in self.channel_axes else size for size, axis in zip(shape, axes, strict=True)
        )
