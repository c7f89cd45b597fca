"""Intervals forwards and linear bounds backwards through a whole network."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_tf.bounds.layer_calls import Call
from hydra_tf.bounds.rounding import dot, floor32, sizes
from hydra_tf.bounds.rules.layers import require_rule
from hydra_tf.bounds.rules.nodes import Context, Node
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Interval

# Floats of the largest tensor in work when no chunk is given: 128 MB.
_FLOATS = 1 << 25


@dataclass(frozen=True, eq=False)
class Network:
    """The nodes of a network in order; node i makes value i + 1 from its sources.

    Args:
        nodes: what each node computes.
        sources: numbers of the values that each node takes; 0 is the input.
    """

    nodes: tuple[Node, ...]
    sources: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, calls: Sequence[Call]) -> Network:
        """Read the weights of the layers and make the nodes."""
        nodes: list[Node] = []
        sources: list[tuple[int, ...]] = []
        values = [0]  # the number of the last value of each call
        for call in calls:
            taken = tuple(values[source] for source in call.sources)
            for node in require_rule(call.layer)(call.layer, call.shapes):
                nodes.append(node)
                sources.append(taken)
                taken = (len(nodes),)
            values.append(taken[0])
        return cls(tuple(nodes), tuple(sources))

    def uses(self) -> list[int]:
        """The largest number of nodes that share a source, for each node."""
        counts = Counter(source for taken in self.sources for source in taken)
        return [max(counts[source] for source in taken) for taken in self.sources]


@dataclass(frozen=True, eq=False)
class Bounded:
    """A network with intervals for its values on one batch.

    Args:
        network: the nodes.
        context: how bounds are computed.
        values: an interval for each value, the input first.
        errors: the rounding error of each node, None where there is none.
    """

    network: Network
    context: Context
    values: list[Interval]
    errors: list[Any]

    def inputs(self, number: int) -> list[Interval]:
        """Intervals of what a node takes."""
        return [self.values[source] for source in self.network.sources[number]]

    def lower(self, rows: Any, value: int, through: bool, signs: Sequence[float] = (1.0,)) -> Any:
        """Lower bounds of linear functions of one value.

        Args:
            rows: [batch or 1, rows, ...] coefficients on the value.
            value: its number.
            through: whether to go on through nodes that are not affine, down to the input;
                otherwise the intervals of their outputs are used.
            signs: the functions are `rows` times each of these; -1 is for nodes that are odd.

        Returns:
            [batch or 1, signs * rows], in float64 when rounding is accounted for.
        """
        rounding = self.context.rounding
        totals: list[Any] = [0.0 for _ in signs]

        def add(constant: Callable[[float], Any]) -> None:
            for i, sign in enumerate(signs):
                totals[i] += constant(sign)

        waiting = {value: rows}
        for number in range(value - 1, -1, -1):
            rows = waiting.pop(number + 1, None)
            if rows is None:
                continue
            node = self.network.nodes[number]
            if not (node.affine or through):
                add(functools.partial(least, rows, self.values[number + 1], rounding))
                continue
            found, constant = node.backward(rows, self.inputs(number), self.context)
            if constant is not None:
                add(constant)
            if rounding and self.errors[number] is not None:
                slip = dot(tf.abs(rows), self.errors[number], True)
                for i in range(len(signs)):
                    totals[i] -= slip
            # What a node adds to the totals would otherwise wait, and its rows with it, while
            # TensorFlow runs ahead to the input.
            with tf.control_dependencies([total for total in totals if tf.is_tensor(total)]):
                found = [tf.identity(part) for part in found]
            for source, part in zip(self.network.sources[number], found, strict=True):
                waiting[source] = part if source not in waiting else waiting[source] + part
        if 0 in waiting:
            add(functools.partial(least, waiting[0], self.values[0], rounding))
        return tf.concat(totals, 1)


def least(rows: Any, interval: Interval, rounding: bool, sign: float = 1.0) -> Any:
    """The least value of the linear functions ``sign * rows`` over a box, [batch or 1, rows].

    Example:
        >>> box = Interval(tf.constant([[0.0, -1.0]]), tf.constant([[1.0, 1.0]]))
        >>> least(tf.constant([[[2.0, 1.0]]]), box, False).numpy().tolist()
        [[-1.0]]
    """
    lower, upper = interval.lower, interval.upper
    if rounding:
        lower, upper = tf.cast(lower, tf.float64), tf.cast(upper, tf.float64)
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    if rounding:
        radius += 1e-9 * (tf.abs(middle) + radius)  # the sums of these very products
    return sign * dot(rows, middle, rounding) - dot(tf.abs(rows), radius, rounding)


def propagate(
    network: Network,
    box: Interval,
    context: Context,
    refine: Callable[[Bounded, int], Interval] | None = None,
) -> Bounded:
    """Return intervals for all values of a network.

    Args:
        network: the nodes.
        box: intervals of the input, [batch, ...].
        context: how bounds are computed.
        refine: gives better intervals for what nodes that are not affine take, unless
            interval arithmetic is exact there.
    """
    bounded = Bounded(network, context, [box], [])
    exact = {0: "independent"}
    done, uses = set(), network.uses()
    for number, (node, sources) in enumerate(zip(network.nodes, network.sources, strict=True)):
        if refine is not None and not node.affine:
            for source in sources:
                if source not in exact and source not in done:
                    bounded.values[source] = refine(bounded, source)
                    done.add(source)
        inputs = bounded.inputs(number)
        bounded.values.append(node.interval(inputs, context))
        error = node.error(inputs, uses[number]) if context.rounding else None
        bounded.errors.append(error)
        kind = exact.get(sources[0]) if len(sources) == 1 else None
        if kind and node.diagonal:
            exact[number + 1] = kind
        elif kind == "independent" and node.affine:
            exact[number + 1] = "exact"
    return bounded


def in_chunks(
    bounded: Bounded, rows: Callable[[Any], Any], count: Any, value: int, through: bool,
    chunk: int | None, signs: Sequence[float] = (1.0,),
) -> Any:  # fmt: skip
    """Lower bounds of many linear functions of one value, some at a time.

    Args:
        bounded: a network and its intervals.
        rows: maps indices [n] to coefficients [batch or 1, n, ...].
        count: number of functions.
        value: the value that they are functions of.
        through: see :meth:`Bounded.lower`.
        chunk: samples times functions worked on at once, at least one function at a time; as
            many as fit 128 MB for the largest feature map when None, all of them when 0.
        signs: see :meth:`Bounded.lower`.

    Returns:
        [batch, signs * count] float32.
    """
    batch = sizes(bounded.values[0].lower)[0]
    if chunk is None:
        chunk = max(1, _FLOATS // _largest(bounded, value))

    def work(indices: Any) -> Any:
        found = bounded.lower(rows(indices), value, through, signs)
        found = floor32(found) if bounded.context.rounding else found
        return tf.broadcast_to(found, [batch, len(signs) * sizes(indices)[0]])

    # TensorFlow would begin to work for every value at once, and hold the rows of each until the
    # intervals before it are there.
    before = [end for each in bounded.values[: value + 1] for end in (each.lower, each.upper)]
    with tf.control_dependencies(before):
        every = tf.identity(tf.range(count))
    if chunk == 0:
        return work(every)
    if isinstance(batch, int) and isinstance(count, int):
        most = max(1, chunk // max(1, batch))
        if count <= most:
            return work(every)
        # Chunks of about one size: the last is not mostly repetition.
        most = -(-count // -(-count // most))
    else:
        most = tf.clip_by_value(chunk // tf.maximum(1, batch), 1, count)
    found = tf.map_fn(
        lambda start: work(tf.minimum(start + tf.range(most), count - 1)),
        every[0] + tf.range(0, count, most),
        fn_output_signature=tf.TensorSpec([None, None], tf.float32),
        parallel_iterations=1,
    )
    chunks, width = tf.shape(found)[0], tf.shape(found)[2] // len(signs)
    found = tf.reshape(found, [chunks, batch, len(signs), width])
    found = tf.reshape(tf.transpose(found, [1, 2, 0, 3]), [batch, len(signs), -1])
    return tf.reshape(found[:, :, :count], [batch, len(signs) * count])


def _largest(bounded: Bounded, value: int) -> int:
    """Number of floats in the largest feature map up to a value, as far as it is known."""
    shapes = [each.lower.shape[1:] for each in bounded.values[: value + 1]]
    return max((shape.num_elements() or 1 for shape in shapes), default=1)
