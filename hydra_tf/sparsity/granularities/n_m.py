"""N of every M consecutive inputs of an output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import require_number
from hydra_tf.sparsity.allocation import Uniform
from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity, default_axes
from hydra_tf.sparsity.topk import kept_count


@GRANULARITIES.register()
@dataclass(frozen=True)
class NM(Granularity):
    """Keeps n of every m consecutive inputs of each output, such as 2:4 (Mishra et al., 2021).

    The density is n/m. Convolutions have groups of input channels at each position of the kernel.
    If the number of inputs is not a multiple of m, the last group is shorter and keeps up to n
    weights, so that a layer may keep more than its share. Layers of one input per output, such as
    depthwise convolutions, are not pruned. Ties go to the first input.

    Args:
        n: number of weights of a group that are kept, from 1 to m - 1.
        m: number of weights of a group.

    Raises:
        ValueError: for n outside of 1 to m - 1.

    Example:
        >>> NM(n=2, m=4)(tf.constant([[0.1], [-3.0], [2.0], [1.0]]), 2).numpy().ravel().tolist()
        [False, True, True, False]
    """

    n: int = 2
    m: int = 4

    fixes_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number("n", self.n, whole=True)
        require_number("m", self.m, whole=True)
        if not 1 <= self.n < self.m:
            raise ValueError(
                f"n_m keeps n of m weights, with n from 1 to m - 1, not n={self.n} and m={self.m}."
            )

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return ones, because weights of a group compete with one another only."""
        return (1,) * len(shape)

    def fixed_kept(self, shape: Sequence[int], axes: str) -> int | None:
        """Return the number of weights that the pattern keeps."""
        size = math.prod(shape)
        if "i" not in axes:
            return size
        inputs = shape[axes.rindex("i")]
        groups, rest = divmod(inputs, self.m)
        return size // inputs * (groups * self.n + min(self.n, rest))

    def check_density(self, density: float, allocation: Any) -> None:
        """Check that the density is n/m, the same in all layers."""
        if not math.isclose(density, self.n / self.m, rel_tol=1e-6):
            raise ValueError(
                f"The granularity n_m:n={self.n},m={self.m} has the density {self.n / self.m:g}, "
                f"not {density:g}; choose this density, without a schedule, or other n and m."
            )
        if isinstance(allocation, Mapping) or not isinstance(allocation, Uniform):
            raise ValueError(
                f"The granularity n_m:n={self.n},m={self.m} fixes the density of every layer; use "
                "the allocation uniform."
            )

    def __call__(self, scores: tf.Tensor, kept: int | tf.Tensor, axes: str = "") -> tf.Tensor:
        """Return where weights are kept: all of them, or the pattern.

        Args:
            scores: float32 scores of a kernel, of known shape.
            kept: number of weights; only all of them, or the number of the pattern. A tensor in a
                graph stands for the pattern unless it is the number of all weights.
            axes: see :meth:`Granularity.window`.

        Raises:
            ValueError: for another number.
        """
        shape = tuple(scores.shape)
        axes, size = axes or default_axes(len(shape)), math.prod(shape)
        fixed = self.fixed_kept(shape, axes)
        allowed = {size, fixed, kept_count(self.n / self.m, size)}
        if isinstance(kept, int) and kept not in allowed:
            raise ValueError(
                f"The granularity n_m:n={self.n},m={self.m} keeps {fixed} of the {size} weights of "
                f"a kernel of shape {shape}, or all of them, not {kept}."
            )
        if fixed == size or (isinstance(kept, int) and kept == size):
            return tf.ones(shape, tf.bool)
        return self._pattern(tf.abs(scores), axes.rindex("i")) | tf.equal(kept, size)

    def _pattern(self, magnitudes: tf.Tensor, axis: int) -> tf.Tensor:
        """Return where the n largest of every m magnitudes along an axis are."""
        shape = magnitudes.shape.as_list()
        outer, inputs, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        padding = -inputs % self.m
        rows = tf.reshape(magnitudes, [outer, inputs, inner])
        rows = tf.pad(rows, [[0, 0], [0, padding], [0, 0]], constant_values=-1.0)
        members = tf.unstack(tf.reshape(rows, [-1, self.m, inner]), axis=1)
        larger = [tf.zeros_like(members[0], tf.int32) for _ in members]
        for j in range(self.m):
            for k in range(j):  # of a pair, one is larger; the first of equal ones
                wins = tf.cast(members[k] >= members[j], tf.int32)
                larger[j] += wins
                larger[k] += 1 - wins
        chosen = tf.stack([count < self.n for count in larger], axis=1)
        chosen = tf.reshape(chosen, [outer, inputs + padding, inner])[:, :inputs]
        return tf.reshape(chosen, shape)
