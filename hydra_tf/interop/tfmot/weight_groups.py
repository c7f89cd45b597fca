"""The groups of weights that TFMOT prunes as one, chosen as TFMOT does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hydra_tf.sparsity.granularities.n_m import NM
from hydra_tf.sparsity.granularity import default_axes
from hydra_tf.sparsity.topk import topk_chosen


@dataclass(frozen=True)
class WeightGroups:
    """Which weights of a kernel are pruned as one; the arguments are TFMOT's.

    Blocks are ranked by the mean or the largest magnitude of their weights. Blocks at the end of a
    kernel whose shape is not a multiple of the block's are pooled with the padding ``"SAME"``.

    Args:
        block_size: height and width of a block of a matrix.
        block_pooling_type: ``"AVG"`` or ``"MAX"``.
        sparsity_m_by_n: (m, n), to prune m of every n consecutive inputs of an output; None for
            blocks.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> kernel = tf.constant([[1.0, 0.1], [1.0, 9.0]])
        >>> WeightGroups((2, 1)).chosen(kernel, tf.constant(0.5)).numpy().tolist()
        [[False, True], [False, True]]
    """

    block_size: Any = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: Any = None

    def __post_init__(self) -> None:
        if self.block_pooling_type not in ("AVG", "MAX"):
            raise ValueError(
                f'block_pooling_type must be "AVG" or "MAX", not {self.block_pooling_type!r}.'
            )
        object.__setattr__(self, "block_size", _two("block_size", self.block_size))
        if self.sparsity_m_by_n is None:
            return
        zeros, length = _two("sparsity_m_by_n", self.sparsity_m_by_n)
        object.__setattr__(self, "sparsity_m_by_n", (zeros, length))
        if zeros >= length:
            raise ValueError(
                "sparsity_m_by_n=(m, n) prunes m of n weights, with m below n, not "
                f"{self.sparsity_m_by_n}."
            )

    def config(self) -> dict[str, Any]:
        """Return the arguments that differ from the defaults, as files store them."""
        arguments: dict[str, Any] = {}
        if self.block_size != (1, 1):
            arguments["block_size"] = list(self.block_size)
        if self.block_pooling_type != "AVG":
            arguments["block_pooling_type"] = self.block_pooling_type
        if self.sparsity_m_by_n is not None:
            arguments["sparsity_m_by_n"] = list(self.sparsity_m_by_n)
        return arguments

    def check_kernel(self, label: str, shape: Sequence[int]) -> None:
        """Check that a kernel can be pruned in these groups.

        Args:
            label: name of the kernel, for the error.
            shape: shape of the kernel.

        Raises:
            ValueError: with the name of the kernel and the ranks that are possible.
        """
        if self.sparsity_m_by_n is not None:
            ranks, argument = [2, 4], f"sparsity_m_by_n={self.sparsity_m_by_n}"
        elif self.block_size != (1, 1):
            ranks, argument = [2], f"block_size={self.block_size}"
        else:
            return
        if len(shape) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise ValueError(
                f"prune_low_magnitude({argument}) prunes kernels of rank {wanted}, but that of "
                f'"{label}" has the shape {tuple(shape)}; prune the other layers only.'
            )

    def chosen(self, kernel: tf.Tensor, sparsity: tf.Tensor, axes: str = "") -> tf.Tensor:
        """Return where a kernel's weights are kept.

        Args:
            kernel: float32 weights.
            sparsity: share of the groups to prune, a scalar; not used for m of n weights.
            axes: meaning of the axes; see :mod:`hydra_tf.sparsity.granularity`.

        Returns:
            Booleans of the kernel's shape.
        """
        if self.sparsity_m_by_n is not None:
            zeros, length = self.sparsity_m_by_n
            part = NM(n=length - zeros, m=length)
            shape = tuple(kernel.shape)
            return part(kernel, part.fixed_kept(shape, axes or default_axes(len(shape))), axes)
        single = self.block_size == (1, 1)
        groups = kernel if single else self._pooled(tf.abs(kernel))
        count = float(math.prod(groups.shape))
        kept = tf.cast(tf.maximum(tf.round(count * (1.0 - sparsity)), 1.0), tf.int32)
        mask = topk_chosen(groups, kept)
        for axis, size in enumerate(self.block_size) if not single else ():
            mask = tf.repeat(mask, size, axis)
        return mask if single else mask[: kernel.shape[0], : kernel.shape[1]]

    def _pooled(self, magnitudes: tf.Tensor) -> tf.Tensor:
        """Return the pooled magnitudes of each block, first over its height, then its width."""
        pooled = magnitudes[None, :, :, None]
        height, width = self.block_size
        for size in ((height, 1), (1, width)):
            pooled = tf.nn.pool(pooled, size, self.block_pooling_type, size, padding="SAME")
        return pooled[0, :, :, 0]


def _two(name: str, value: Any) -> tuple[int, int]:
    """Return two whole numbers of at least 1 as a tuple."""
    numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if len(numbers) != 2 or not whole or min(numbers) < 1:
        raise ValueError(f"{name} must be two whole numbers of at least 1, not {value!r}.")
    return numbers
