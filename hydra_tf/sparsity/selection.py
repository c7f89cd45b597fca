"""How the mask of a layer is chosen from scores, beside its granularity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.sparsity.topk import topk_chosen


@dataclass(frozen=True)
class Selection:
    """Which scores compete for a place in a mask, and which always have one.

    Args:
        joint: whether the layer competes with all other joint layers of the model, instead of
            keeping a number of weights of its own.
        min_kept: number of largest scores that a joint layer always keeps.
        every_output: whether the largest score of each output is always kept.

    Example:
        >>> Selection().protected(tf.constant([[1.0, 2.0], [3.0, 0.5]])) is None
        True
    """

    joint: bool = False
    min_kept: int = 1
    every_output: bool = False

    def protected(self, scores: tf.Tensor) -> tf.Tensor | None:
        """Return where the scores are that always have a place, None if there are none.

        Args:
            scores: float32 scores of a layer; the last axis are its outputs.

        Returns:
            Booleans of the shape of `scores`.
        """
        chosen = self.floor(scores)
        if self.every_output:
            columns = _largest_of_columns(scores, scores.shape[-1])
            chosen = columns if chosen is None else chosen | columns
        return chosen

    def floor(self, scores: tf.Tensor) -> tf.Tensor | None:
        """Return where the `min_kept` largest scores are, None if the layer is not joint.

        Args:
            scores: float32 scores of a layer, or of its groups.
        """
        if not self.joint:
            return None
        if self.min_kept == 1:
            return _largest_of_columns(scores, 1)  # faster
        return topk_chosen(scores, min(self.min_kept, math.prod(scores.shape.as_list())))

    def ranked(self, scores: tf.Tensor) -> tf.Tensor:
        """Return scores whose protected entries are larger than all others.

        Args:
            scores: float32 scores of a layer.

        Example:
            >>> scores = tf.constant([[1.0, 2.0], [3.0, 0.5]])
            >>> Selection(every_output=True).ranked(scores).numpy().tolist()
            [[1.0, inf], [inf, 0.5]]
        """
        protected = self.protected(scores)
        return scores if protected is None else tf.where(protected, np.float32(np.inf), scores)

    def alone(self) -> Selection:
        """Return the selection of a layer that does not compete with others.

        Example:
            >>> Selection(joint=True, min_kept=4).alone() == Selection()
            True
        """
        return Selection(every_output=self.every_output)


def _largest_of_columns(scores: tf.Tensor, columns: int) -> tf.Tensor:
    """Return where the largest score of each column is, of scores with so many columns."""
    rows = tf.reshape(tf.abs(scores), [-1, columns])
    first = tf.argmax(rows, 0, output_type=tf.int32)
    chosen = tf.range(tf.shape(rows)[0])[:, None] == first[None, :]
    return tf.reshape(chosen, tf.shape(scores))
