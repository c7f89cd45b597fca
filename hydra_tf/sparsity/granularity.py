"""Granularities: the units that are kept or pruned as one.

A group of weights is a box of a kernel, such as all weights of one output. Each layer keeps whole
groups, those of the largest sums of magnitudes ``sum |s|`` of their scores s. The mask stays one
boolean per weight, so that the straight-through gradient of each score is that of single weights.

The meaning of the axes of a kernel is a string with one letter per axis: ``s`` for spatial
positions, ``i`` for inputs, ``o`` for outputs, and ``c`` for channels that are both, as those of
depthwise convolutions. The kernel of a Conv2D layer has the axes ``"ssio"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.sparsity.topk import topk_chosen


@dataclass(frozen=True)
class Granularity:
    """Divides a kernel into groups of equal size, and keeps those of the largest scores.

    ``channel_axes`` are the letters of the axes whose positions are channels that are kept or
    pruned as one; layers with tied channels choose them together (see
    :mod:`hydra_tf.sparsity.tied_channels`). It is empty for groups that are not whole channels.
    """

    channel_axes: ClassVar[str] = ""
    fixes_density: ClassVar[bool] = False  # true if every layer has one possible density

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return the size of a group along each axis of a kernel, a divisor of the axis's size.

        Args:
            shape: shape of the kernel.
            axes: a letter for each axis of the kernel; see
                :mod:`hydra_tf.sparsity.granularity`.
        """
        raise NotImplementedError

    def unit(self, shape: Sequence[int], axes: str) -> int:
        """Return the number of weights of a group; see :meth:`window`."""
        return math.prod(self.window(shape, axes))

    def fixed_kept(self, shape: Sequence[int], axes: str) -> int | None:
        """Return the number of weights that a pruned kernel keeps, None if any is possible."""
        return None

    def check_density(self, density: float, allocation: Any) -> None:
        """Check that the network can have a density with an allocation.

        Args:
            density: share of the weights to keep, in (0, 1].
            allocation: the allocation, or a mapping of densities.

        Raises:
            ValueError: if the granularity fixes another density, or that of each layer.
        """

    def of_last_layer(self) -> Granularity:
        """Return the granularity of the layer that computes the logits."""
        return self

    def group_scores(self, scores: tf.Tensor, axes: str) -> tf.Tensor:
        """Return the sum of the magnitudes of the scores of each group.

        Layers that prune channels together add these up.

        Args:
            scores: float32 scores of a kernel.
            axes: see :meth:`window`.

        Returns:
            float32 tensor with the number of groups along each axis.
        """
        return group_sums(tf.abs(scores), self.window(tuple(scores.shape), axes))

    def mean_scores(self, scores: tf.Tensor, axes: str) -> tf.Tensor:
        """Return for each weight the mean magnitude of the scores of its group.

        Args:
            scores: float32 scores of a kernel.
            axes: see :meth:`window`.
        """
        scores = tf.convert_to_tensor(scores)
        unit = self.unit(scores.shape, axes)
        if unit == 1:
            return scores
        return spread(self.group_scores(scores, axes) / unit, self.window(scores.shape, axes))

    def group_mask(self, chosen: tf.Tensor, shape: Sequence[int], axes: str) -> tf.Tensor:
        """Return the mask of a kernel that keeps the chosen groups.

        Args:
            chosen: booleans, of the shape of :meth:`group_scores`.
            shape: shape of the kernel.
            axes: see :meth:`window`.

        Returns:
            Booleans of the kernel's shape.
        """
        return spread(chosen, self.window(shape, axes))

    def __call__(self, scores: tf.Tensor, kept: int | tf.Tensor, axes: str = "") -> tf.Tensor:
        """Return where a kernel's weights are kept.

        Args:
            scores: float32 scores of a kernel, of known shape.
            kept: number of weights: a whole number, or a scalar int32 tensor in a graph. It is
                rounded down to whole groups, but at least one.
            axes: see :meth:`window`; by default those of a dense layer or convolution.

        Returns:
            Booleans of the shape of `scores`.
        """
        axes = axes or default_axes(len(scores.shape))
        unit = self.unit(scores.shape, axes)
        if unit == 1:
            return topk_chosen(scores, kept)
        groups = max(1, kept // unit) if isinstance(kept, int) else tf.maximum(kept // unit, 1)
        sums = self.group_scores(scores, axes)
        return self.group_mask(topk_chosen(sums, groups), scores.shape, axes)


GranularitySpec: TypeAlias = str | Mapping[str, Any] | Granularity

GRANULARITIES: Registry[Granularity] = Registry("granularity", "hydra_tf.sparsity.granularities")


def granularity_name(spec: GranularitySpec) -> str:
    """Return a granularity as a string, as configs store it.

    Args:
        spec: a registered name with parameters, a mapping, or a part.

    Raises:
        ValueError: for an unknown name or parameter.
        TypeError: for something that is not a granularity.

    Example:
        >>> granularity_name("element"), granularity_name({"name": "block", "size": 4})
        ('element', 'block:size=4')
    """
    part = GRANULARITIES.build(spec)
    if isinstance(spec, str):
        return spec
    parameters = GRANULARITIES.config(part)
    name = str(parameters.pop("name"))
    return f"{name}:" + ",".join(f"{k}={v}" for k, v in parameters.items()) if parameters else name


def default_axes(rank: int) -> str:
    """Return the axes of the kernel of a dense layer or convolution.

    Args:
        rank: number of axes.

    Example:
        >>> default_axes(4), default_axes(1)
        ('ssio', 'o')
    """
    return "s" * max(0, rank - 2) + "io"[-rank:]


def _divided(shape: Sequence[int], window: Sequence[int]) -> list[tuple[int, bool]]:
    """Return the axes of a kernel, divided into numbers of groups and sizes within a group.

    Axes of size 1 are left out, and neighbours of the same kind are one axis.

    Args:
        shape: shape of the kernel.
        window: size of a group along each axis.

    Returns:
        Size of each axis, and whether it is within a group.
    """
    merged: list[tuple[int, bool]] = []
    for size, inside in zip(shape, window, strict=True):
        for length, within in ((size // inside, False), (inside, True)):
            if length > 1 and merged and merged[-1][1] == within:
                merged[-1] = (merged[-1][0] * length, within)
            elif length > 1:
                merged.append((length, within))
    return merged


def group_sums(values: tf.Tensor, window: Sequence[int]) -> tf.Tensor:
    """Return the sum of each group of values.

    Args:
        values: tensor of known shape.
        window: size of a group along each axis, a divisor of the axis's size.

    Example:
        >>> group_sums(tf.constant([[1.0, 2.0], [3.0, 4.0]]), (2, 1)).numpy().tolist()
        [[4.0, 6.0]]
    """
    divided = _divided(values.shape, window)
    within = [i for i, (_, inside) in enumerate(divided) if inside]
    sums = tf.reduce_sum(tf.reshape(values, [size for size, _ in divided]), within)
    return tf.reshape(sums, [n // w for n, w in zip(values.shape, window, strict=True)])


def spread(chosen: tf.Tensor, window: Sequence[int]) -> tf.Tensor:
    """Return the value of its group for each weight.

    Args:
        chosen: one value per group, of known shape.
        window: size of a group along each axis.

    Example:
        >>> spread(tf.constant([[True, False]]), (2, 1)).numpy().tolist()
        [[True, False], [True, False]]
    """
    shape = [n * w for n, w in zip(chosen.shape, window, strict=True)]
    divided = _divided(shape, window)
    groups = tf.reshape(chosen, [1 if inside else size for size, inside in divided])
    return tf.reshape(tf.broadcast_to(groups, [size for size, _ in divided]), shape)
