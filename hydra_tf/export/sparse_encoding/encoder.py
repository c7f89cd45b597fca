"""TFLite files whose pruned kernels are stored sparsely, kernel by kernel in the smallest form."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from hydra_tf.export.sparse_encoding.flatbuffer import read, write
from hydra_tf.export.sparse_encoding.graph import FLOAT32, INT8, Graph
from hydra_tf.export.sparse_encoding.plans import Preference, choose
from hydra_tf.export.sparse_encoding.rewrite import Rewriter, half_constants

_OPERATORS = schema.BuiltinOperator
_WITH_KERNEL = {
    _OPERATORS.CONV_2D,
    _OPERATORS.DEPTHWISE_CONV_2D,
    _OPERATORS.FULLY_CONNECTED,
}
_REPLACED = {_OPERATORS.DEQUANTIZE, _OPERATORS.RESHAPE}


def encode_sparsely(content: bytes, prefer: Preference = "size") -> bytes:
    """Return a TFLite file with sparse kernels where they are smaller.

    Kernels are compressed along the axis that costs least. A wide dense layer becomes a
    convolution between two RESHAPE operators, and a wide convolution two or more that are
    concatenated, so that a position takes one byte. LiteRT decodes kernels once, when it loads the
    file.

    Args:
        content: a file with dense float32, float16 or int8 kernels.
        prefer: ``"size"`` for the smallest file; ``"latency"`` stores float32 dense layers with few
            nonzero blocks of four inputs in such blocks, which LiteRT multiplies faster.

    Raises:
        ValueError: for bytes that are not a TFLite file, and for 8-bit kernels of float32 inputs
            (dynamic range quantization), of which LiteRT loads no sparse ones.

    Example:
        >>> encode_sparsely(b"something else")
        Traceback (most recent call last):
        ValueError: The bytes are not a TFLite file: they have no identifier TFL3 at position 4.
    """
    model = read(content)
    for subgraph in model.subgraphs:
        _encode_subgraph(model, subgraph, prefer)
    return write(model)


def _encode_subgraph(model: Any, subgraph: Any, prefer: Preference) -> None:
    """Store the kernels of a subgraph sparsely where that is smaller."""
    graph = Graph(model, subgraph)
    half = half_constants(graph)
    rewriter = Rewriter(graph, half)
    operators: list[Any] = []
    for operator in graph.operators:
        operators += _encoded(graph, rewriter, operator, half, prefer)
    if not rewriter.stored:
        return
    subgraph.operators[:] = _without_unread(graph, operators)
    for index, tensor in enumerate(graph.tensors):
        # No interpreter looks for the name of a constant, and names can be longer than values.
        if model.buffers[tensor.buffer].data is not None and index not in graph.outputs:
            tensor.name = None


def _without_unread(graph: Graph, operators: list[Any]) -> list[Any]:
    """Return the operators without those that nothing reads after kernels were replaced."""
    read, kept = set(graph.outputs), []
    for operator in reversed(operators):
        replaced = graph.kind(operator) in _REPLACED
        if not replaced or read.intersection(map(int, operator.outputs)):
            kept.append(operator)
            read.update(map(int, operator.inputs))
    return kept[::-1]


def _encoded(
    graph: Graph, rewriter: Rewriter, operator: Any, half: dict[int, int], prefer: Preference
) -> list[Any]:
    """Return what takes the place of an operator: itself, if its kernel stays as it is."""
    kind = graph.kind(operator)
    if kind not in _WITH_KERNEL:
        return [operator]
    image, kernel = int(operator.inputs[0]), int(operator.inputs[1])
    source = half.get(kernel, kernel)
    values = graph.constant(source)
    if values is None:
        return [operator]
    if graph.tensors[source].type == INT8 and graph.tensors[image].type == FLOAT32:
        raise ValueError(
            "The file has 8-bit kernels of float32 inputs (dynamic range quantization), but LiteRT "
            'loads no sparse ones; quantize the inputs too (quantization="int8"), or keep the '
            "kernels dense (sparse=False)."
        )
    groups = 1
    if kind == _OPERATORS.CONV_2D:
        groups = graph.shape(image)[-1] // values.shape[-1]
    plan = choose(kind, values, groups, prefer)
    return rewriter.apply(operator, plan) if plan.layouts else [operator]
