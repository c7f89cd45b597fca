"""Files of 8-bit numbers whose last layer computes in float32.

An int8 output has 255 steps for the range of all logits. Where the two largest logits of an image
are less than a step apart, they become equal, and the class is a matter of chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hydra_tf.export.sparse_encoding.flatbuffer import read, write
from hydra_tf.export.sparse_encoding.graph import FLOAT32, INT8, Graph

_OPERATORS = schema.BuiltinOperator


def with_float_logits(content: bytes) -> bytes:
    """Return an int8 file with its last dense layer in float32.

    The layer reads the same 8-bit activations, and its weights have the same values as before, but
    its outputs are not rounded.

    Args:
        content: an int8 file with float32 outputs, stored densely.

    Raises:
        ValueError: for bytes that are not a TFLite file, and for a network that does not end in a
            dense layer.

    Example:
        >>> with_float_logits(b"something else")
        Traceback (most recent call last):
        ValueError: The bytes are not a TFLite file: they have no identifier TFL3 at position 4.
    """
    model = read(content)
    subgraph = model.subgraphs[0]
    graph = Graph(model, subgraph)
    operators = list(graph.operators)
    layer, decoder = _last_two(graph, operators)
    source, kernel, *bias = (int(i) for i in layer.inputs)
    decoded = graph.add_tensor(graph.shape(source), FLOAT32, None)
    layer.inputs = np.array([decoded, *(_in_float(graph, i) for i in (kernel, *bias))], np.int32)
    layer.outputs = decoder.outputs
    layer.opcodeIndex = graph.code(_OPERATORS.FULLY_CONNECTED, 1)
    decoder.inputs, decoder.outputs = np.array([source], np.int32), np.array([decoded], np.int32)
    subgraph.operators = [*(each for each in operators if each is not layer), layer]
    return write(model)


def _last_two(graph: Graph, operators: list[Any]) -> tuple[Any, Any]:
    """Return the last dense layer and the operator that turns its int8 outputs into float32."""
    if len(operators) > 1:
        layer, decoder = operators[-2:]
        kinds = graph.kind(layer), graph.kind(decoder)
        joined = list(layer.outputs) == list(decoder.inputs)
        if kinds == (_OPERATORS.FULLY_CONNECTED, _OPERATORS.DEQUANTIZE) and joined:
            kernel = int(layer.inputs[1])
            if graph.tensors[kernel].type == INT8 and graph.constant(kernel) is not None:
                return layer, decoder
    raise ValueError(
        'quantization="int8_float_logits" needs a network whose last layer is dense; use "int8".'
    )


def _in_float(graph: Graph, tensor: int) -> int:
    """Return a float32 constant with the values of a quantized one; -1 for one that is absent."""
    if tensor < 0:
        return tensor
    values = graph.constant(tensor)
    assert values is not None, "kernels and biases are constants"
    scales = np.asarray(graph.tensors[tensor].quantization.scale, np.float32)
    # Each output has a scale of its own, or all have one; the zero points of weights are 0.
    scales = scales.reshape(-1, *[1] * (values.ndim - 1))
    return graph.add_constant(values.astype(np.float32) * scales)
