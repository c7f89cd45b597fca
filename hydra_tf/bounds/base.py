"""The base class and the registry of bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.bounds.propagation import BoundedGraph, chunked_lower_bounds
from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.core.types import Interval


@dataclass(frozen=True)
class Bound:
    """A method that bounds the logits of a network over Linf balls.

    Args:
        rounding: whether the bounds hold for float32 evaluations of the network, as certified
            numbers must; False gives the bounds of real arithmetic, for training.
        chunk: samples times linear functions that are followed backwards at once, at least
            one function at a time. Memory grows in proportion: about sixteen tensors with this
            many copies of the largest feature map. None chooses as many as fit 128 MB per tensor,
            2 GB in all; 0 means all at once. A chunk limits the memory of bounds, but not of
            their gradients, which keep intermediate tensors of every function.

    Example:
        >>> from hydra_tf.bounds.layer_calls import list_calls
        >>> from hydra_tf.core.lazy import keras
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
        >>> net.set_weights([tf.constant([[1.0, -2.0]]), tf.zeros([2])])
        >>> graph = LayerGraph.from_calls(list_calls(net))
        >>> box = Interval(tf.constant([[0.25]]), tf.constant([[0.75]]))
        >>> build("ibp:rounding=false")(graph, box, tf.constant([[[1.0, -1.0]]])).numpy().tolist()
        [[0.75]]
    """

    combines_others: ClassVar[bool] = False  # whether it uses the bounds of other methods

    rounding: bool = True
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 0:
            raise ValueError(f"chunk must be at least 0, not {self.chunk}.")

    def __call__(self, graph: LayerGraph, box: Interval, specifications: tf.Tensor) -> tf.Tensor:
        """Return lower bounds of linear functions of the logits.

        Args:
            graph: nodes with the current weights.
            box: interval of the input, [batch, ...].
            specifications: [batch or 1, rows, classes] coefficients on the logits.

        Returns:
            [batch, rows] float32.
        """
        raise NotImplementedError

    def _lower_bounds(
        self, bounded: BoundedGraph, specifications: tf.Tensor, to_input: bool
    ) -> tf.Tensor:
        return chunked_lower_bounds(
            bounded,
            lambda indices: tf.gather(specifications, indices, axis=1),
            specifications.shape[1],
            len(bounded.graph.nodes),
            to_input,
            self.chunk,
        )


BOUNDS: Registry[Bound] = Registry("bound", "hydra_tf.bounds")
build = BOUNDS.build
