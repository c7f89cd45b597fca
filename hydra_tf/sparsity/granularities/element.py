"""Single weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity


@GRANULARITIES.register()
@dataclass(frozen=True)
class Element(Granularity):
    """Single weights, as in arXiv 2002.10509.

    Example:
        >>> Element().window((3, 3, 16, 32), "ssio")
        (1, 1, 1, 1)
    """

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return ones."""
        return (1,) * len(shape)
