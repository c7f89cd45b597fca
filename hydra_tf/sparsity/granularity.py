"""What is kept or pruned as one: single weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.sparsity.topk import kept_count, topk_chosen


class Granularity(Protocol):
    """Chooses the mask of one kernel from its scores."""

    def __call__(self, scores: tf.Tensor, density: float) -> tf.Tensor:
        """Return booleans of the scores' shape, true where a weight is kept."""


GRANULARITIES: Registry[Granularity] = Registry("granularity", "hydra_tf.sparsity")


@GRANULARITIES.register("element")
@dataclass(frozen=True)
class Element:
    """Every weight on its own (the paper's choice)."""

    def __call__(self, scores: tf.Tensor, density: float) -> tf.Tensor:
        """Keep the weights of largest score."""
        return topk_chosen(scores, kept_count(density, scores.shape.num_elements()))
