"""Output channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.sparsity.granularities.layer import Layer
from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity


@GRANULARITIES.register()
@dataclass(frozen=True)
class Filter(Granularity):
    """All weights of one output channel of a convolution, or of one output of a dense layer.

    Layers of which channels can only be removed together, as those of residual connections, keep
    the same ones; see :mod:`hydra_tf.sparsity.tied_channels`. The last layer, which computes the
    logits, is not pruned; its weights are part of the budget.

    Args:
        logits: whether outputs of the last layer may be pruned too.

    Example:
        >>> Filter().window((3, 3, 16, 32), "ssio")
        (3, 3, 16, 1)
    """

    logits: bool = False

    channel_axes: ClassVar[str] = "oc"

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return ones for the axes of outputs, and the sizes of the others."""
        return tuple(
            1 if axis in self.channel_axes else size for size, axis in zip(shape, axes, strict=True)
        )

    def of_last_layer(self) -> Granularity:
        """Return whole layers, unless logits may be pruned."""
        return self if self.logits else Layer()
