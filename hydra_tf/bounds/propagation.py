"""Intervals forwards and linear bounds backwards through a whole network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hydra_tf.bounds.layer_graph import LayerGraph
from hydra_tf.bounds.rounding import TINY, coefficient_underflow, dot, floor32, sizes
from hydra_tf.bounds.rules.nodes import BoundOptions
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

# Floats of the largest intermediate tensor if no chunk is given: 128 MB.
_FLOATS = 1 << 25


@dataclass(frozen=True, eq=False)
class BoundedGraph:
    """A layer graph with intervals for its values on one batch.

    Args:
        graph: the nodes.
        options: how bounds are computed.
        values: an interval for each value, the input first.
        rounding_errors: the rounding error of each node, None for none.
        underflows: what the coefficients of each node can lose to underflow, 0 for nothing.
    """

    graph: LayerGraph
    options: BoundOptions
    values: list[Interval]
    rounding_errors: list[tf.Tensor | None]
    underflows: list[tf.Tensor | float]

    def inputs(self, number: int) -> list[Interval]:
        """Return the intervals of the inputs of a node."""
        return [self.values[source] for source in self.graph.sources[number]]

    def lower_bounds(
        self, rows: tf.Tensor, value: int, to_input: bool, signs: Sequence[float] = (1.0,)
    ) -> tf.Tensor:
        """Return lower bounds of linear functions of one value.

        Args:
            rows: [batch or 1, rows, ...] coefficients on the value.
            value: number of the value.
            to_input: whether to pass backwards through nodes that are not affine, down to the
                input; otherwise the intervals of their outputs are used.
            signs: the functions are `rows` times each sign; -1 is only valid for odd nodes.

        Returns:
            [batch or 1, signs * rows], in float64 when rounding is accounted for.
        """
        rounding = self.options.rounding
        totals: list[float | tf.Tensor] = [0.0 for _ in signs]

        def add(constant: Callable[[float], tf.Tensor]) -> None:
            for i, sign in enumerate(signs):
                totals[i] += constant(sign)

        pending = {value: rows}
        for number in range(value - 1, -1, -1):
            rows = pending.pop(number + 1, None)
            if rows is None:
                continue
            node = self.graph.nodes[number]
            if not (node.affine or to_input):
                add(functools.partial(box_minimum, rows, self.values[number + 1], rounding))
                continue
            coefficients, constant = node.backward(rows, self.inputs(number), self.options)
            if constant is not None:
                add(constant)
            if rounding and self.rounding_errors[number] is not None:
                error = dot(tf.abs(rows), self.rounding_errors[number], True)
                error += self.underflows[number]
                for i in range(len(signs)):
                    totals[i] -= error
            # Without this dependency TensorFlow runs ahead to the input, and keeps the rows of
            # every node in memory until the totals are computed.
            with tf.control_dependencies([total for total in totals if tf.is_tensor(total)]):
                coefficients = [tf.identity(tensor) for tensor in coefficients]
            for source, tensor in zip(self.graph.sources[number], coefficients, strict=True):
                pending[source] = tensor if source not in pending else pending[source] + tensor
        if 0 in pending:
            add(functools.partial(box_minimum, pending[0], self.values[0], rounding))
        return tf.concat(totals, 1) if len(totals) > 1 else totals[0]


def box_minimum(
    rows: tf.Tensor, interval: Interval, rounding: bool, sign: float = 1.0
) -> tf.Tensor:
    """Return the minimum of the linear functions ``sign * rows`` over a box, [batch or 1, rows].

    Example:
        >>> box = Interval(tf.constant([[0.0, -1.0]]), tf.constant([[1.0, 1.0]]))
        >>> box_minimum(tf.constant([[[2.0, 1.0]]]), box, False).numpy().tolist()
        [[-1.0]]
    """
    lower, upper = interval.lower, interval.upper
    if rounding:
        lower, upper = tf.cast(lower, tf.float64), tf.cast(upper, tf.float64)
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    if not rounding:
        return sign * dot(rows, middle, False) - dot(tf.abs(rows), radius, False)
    magnitudes = tf.abs(middle) + radius
    radius += 1e-9 * magnitudes  # covers the rounding of these float64 sums
    lost = TINY * tf.reduce_sum(magnitudes, axis=range(1, len(magnitudes.shape)))
    return sign * dot(rows, middle, True) - dot(tf.abs(rows), radius, True) - lost[:, None]


def propagate(
    graph: LayerGraph,
    box: Interval,
    options: BoundOptions,
    refine: Callable[[BoundedGraph, int], Interval] | None = None,
) -> BoundedGraph:
    """Return intervals for all values of a network.

    Args:
        graph: the nodes.
        box: intervals of the input, [batch, ...].
        options: how bounds are computed.
        refine: returns tighter intervals of a value. It is called for the inputs of nodes that
            are not affine, unless interval arithmetic is exact there.
    """
    bounded = BoundedGraph(graph, options, [box], [], [])
    # Values with exact intervals; if "independent", also every point of their box is reached.
    exact = {0: "independent"}
    refined, consumers = set(), graph.consumers()
    for number, (node, sources) in enumerate(zip(graph.nodes, graph.sources, strict=True)):
        if refine is not None and not node.affine:
            for source in sources:
                if source not in exact and source not in refined:
                    bounded.values[source] = refine(bounded, source)
                    refined.add(source)
        inputs = bounded.inputs(number)
        bounded.values.append(node.interval(inputs, options))
        error = node.rounding_error(inputs, consumers[number]) if options.rounding else None
        bounded.rounding_errors.append(error)
        lost = 0.0 if error is None else coefficient_underflow(inputs, error)[:, None]
        bounded.underflows.append(lost)
        kind = exact.get(sources[0]) if len(sources) == 1 else None
        if kind and node.diagonal:
            exact[number + 1] = kind
        elif kind == "independent" and node.affine:
            exact[number + 1] = "exact"
    return bounded


def chunked_lower_bounds(
    bounded: BoundedGraph,
    rows: Callable[[tf.Tensor], tf.Tensor],
    count: int | tf.Tensor,
    value: int,
    to_input: bool,
    chunk: int | None,
    signs: Sequence[float] = (1.0,),
) -> tf.Tensor:
    """Return lower bounds of many linear functions of one value, computed in chunks.

    Args:
        bounded: a network and its intervals.
        rows: maps indices [n] to coefficients [batch or 1, n, ...].
        count: number of functions.
        value: number of the value that they are functions of.
        to_input: see :meth:`BoundedGraph.lower_bounds`.
        chunk: samples times functions computed at once, at least one function at a time; None
            for as many as fit 128 MB for the largest feature map, 0 for all.
        signs: see :meth:`BoundedGraph.lower_bounds`.

    Returns:
        [batch, signs * count] float32.
    """
    batch = sizes(bounded.values[0].lower)[0]
    if chunk is None:
        chunk = max(1, _FLOATS // _largest_size(bounded, value))

    def compute(indices: tf.Tensor) -> tf.Tensor:
        lower = bounded.lower_bounds(rows(indices), value, to_input, signs)
        lower = floor32(lower) if bounded.options.rounding else lower
        return tf.broadcast_to(lower, [batch, len(signs) * sizes(indices)[0]])

    # Without this dependency TensorFlow starts on every value at once, and keeps the rows of each
    # in memory until the intervals before it are computed.
    before = [
        end for interval in bounded.values[: value + 1] for end in (interval.lower, interval.upper)
    ]
    with tf.control_dependencies(before):
        indices = tf.identity(tf.range(count))
    if chunk == 0:
        return compute(indices)
    if isinstance(batch, int) and isinstance(count, int):
        length = max(1, chunk // max(1, batch))
        if count <= length:
            return compute(indices)
        # Chunks of nearly equal length, because the last one is filled up with repetitions.
        length = -(-count // -(-count // length))
    else:
        length = tf.clip_by_value(chunk // tf.maximum(1, batch), 1, count)
    lower = tf.map_fn(
        lambda start: compute(tf.minimum(start + tf.range(length), count - 1)),
        indices[0] + tf.range(0, count, length),
        fn_output_signature=tf.TensorSpec([None, None], tf.float32),
        parallel_iterations=1,
    )
    chunks, width = tf.shape(lower)[0], tf.shape(lower)[2] // len(signs)
    lower = tf.reshape(lower, [chunks, batch, len(signs), width])
    lower = tf.reshape(tf.transpose(lower, [1, 2, 0, 3]), [batch, len(signs), -1])
    return tf.reshape(lower[:, :, :count], [batch, len(signs) * count])


def _largest_size(bounded: BoundedGraph, value: int) -> int:
    """Return the number of floats in the largest feature map of known size up to a value."""
    shapes = [interval.lower.shape[1:] for interval in bounded.values[: value + 1]]
    return max((shape.num_elements() or 1 for shape in shapes), default=1)
