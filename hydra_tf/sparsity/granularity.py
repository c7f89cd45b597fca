"""Granularities: the units that are kept or pruned as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.sparsity.topk import kept_count, topk_chosen


class Granularity(Protocol):
    """Chooses the mask of a kernel from its scores."""

    def __call__(self, scores: tf.Tensor, density: float) -> tf.Tensor:
        """Return booleans of the scores' shape, true where a weight is kept.

        The number of kept weights is that of :func:`hydra_tf.sparsity.kept_count`.
        """


GRANULARITIES: Registry[Granularity] = Registry("granularity", "hydra_tf.sparsity")


@GRANULARITIES.register("element")
@dataclass(frozen=True)
class Element:
    """Single weights, as in arXiv 2002.10509."""

    def __call__(self, scores: tf.Tensor, density: float) -> tf.Tensor:
        """Return where the scores of largest magnitude are."""
        return topk_chosen(scores, kept_count(density, scores.shape.num_elements()))
