"""Granularities: the units that are kept or pruned as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.sparsity.topk import topk_chosen


class Granularity(Protocol):
    """Chooses the mask of a kernel from its scores."""

    def __call__(self, scores: tf.Tensor, kept: int | tf.Tensor) -> tf.Tensor:
        """Return booleans of the scores' shape, `kept` of them true, where a weight is kept.

        In a graph, `kept` is a scalar int32 tensor, because a density may change between steps.
        """


GRANULARITIES: Registry[Granularity] = Registry("granularity", "hydra_tf.sparsity")


@GRANULARITIES.register("element")
@dataclass(frozen=True)
class Element:
    """Single weights, as in arXiv 2002.10509."""

    def __call__(self, scores: tf.Tensor, kept: int | tf.Tensor) -> tf.Tensor:
        """Return where the scores of largest magnitude are."""
        return topk_chosen(scores, kept)
