"""Consecutive inputs of one output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra_tf.core.types import require_number
from hydra_tf.sparsity.granularity import GRANULARITIES, Granularity


@GRANULARITIES.register()
@dataclass(frozen=True)
class Block(Granularity):
    """Blocks of consecutive inputs of one output.

    The fully connected layers of LiteRT skip blocks of zeros of 4 inputs in float32 and of 16 in
    int8; a dense kernel [inputs, outputs] has such blocks along its first axis. Convolutions have
    blocks of input channels at one position of the kernel. If the number of inputs is not a
    multiple of `size`, blocks have the largest size below that divides it: an RGB image has blocks
    of 3. Layers of one input per output, such as depthwise convolutions, keep single weights.

    Args:
        size: weights of a block, at least 1.

    Raises:
        ValueError: for a size below 1.

    Example:
        >>> Block(size=4).window((10, 8), "io"), Block(size=4).window((12, 8), "io")
        ((2, 1), (4, 1))
    """

    size: int = 4

    def __post_init__(self) -> None:
        require_number("size", self.size, whole=True)
        if self.size < 1:
            raise ValueError(f"A block must have at least 1 weight, not size={self.size}.")

    def window(self, shape: Sequence[int], axes: str) -> tuple[int, ...]:
        """Return the size of a block along the last axis of inputs, and ones."""
        window = [1] * len(shape)
        if "i" in axes:
            axis = axes.rindex("i")
            sizes = range(1, min(self.size, shape[axis]) + 1)
            window[axis] = max(size for size in sizes if shape[axis] % size == 0)
        return tuple(window)
