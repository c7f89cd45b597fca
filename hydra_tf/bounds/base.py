"""What a bound is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.engine import Bounded, Network, in_chunks
from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.core.types import Interval


@dataclass(frozen=True)
class Bound:
    """A way to bound a network's logits over Linf balls.

    Args:
        rounding: whether the bounds hold for float32 evaluations of the network, as certified
            numbers must; False gives the bounds of real arithmetic, for training.
        chunk: samples times linear functions that are followed backwards at once, at least
            one function at a time. Memory grows with it: about sixteen tensors of so many
            copies of the largest feature map. None takes as many as fit 128 MB a tensor, 2 GB
            in all; 0 takes all at once. It bounds the memory of bounds, not of their
            gradients, which keep what every function left behind.
    """

    rounding: bool = True
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 0:
            raise ValueError(f"chunk must be at least 0, not {self.chunk}.")

    def __call__(self, network: Network, box: Interval, specs: Any) -> Any:
        """Lower bounds of linear functions of the logits.

        Args:
            network: nodes with the weights of the moment.
            box: [batch, ...] ends of the inputs.
            specs: [batch or 1, rows, classes] coefficients on the logits.

        Returns:
            [batch, rows] float32.
        """
        raise NotImplementedError

    def _finish(self, bounded: Bounded, specs: Any, through: bool) -> Any:
        return in_chunks(
            bounded,
            lambda indices: tf.gather(specs, indices, axis=1),
            specs.shape[1],
            len(bounded.network.nodes),
            through,
            self.chunk,
        )


BOUNDS: Registry[Bound] = Registry("bound", "hydra_tf.bounds")
build = BOUNDS.build
