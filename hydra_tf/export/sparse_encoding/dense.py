"""TFLite files that stay dense: their constants for any number of images, and without kernels."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hydra_tf.export.sparse_encoding.flatbuffer import read, write
from hydra_tf.export.sparse_encoding.graph import Graph


def for_any_batch(content: bytes) -> bytes:
    """Return a TFLite file that also runs on several images, after `resize_tensor_input`.

    The converter writes the number of images into the shapes of RESHAPE; the new file has -1.

    Args:
        content: a file for one image.

    Raises:
        ValueError: for bytes that are not a TFLite file.

    Example:
        >>> for_any_batch(b"something else")
        Traceback (most recent call last):
        ValueError: The bytes are not a TFLite file: they have no identifier TFL3 at position 4.
    """
    model = read(content)
    for subgraph in model.subgraphs:
        _free_batch(Graph(model, subgraph))
    return write(model)


def _free_batch(graph: Graph) -> None:
    """Replace the number of images, one, by -1 in the constant shapes of RESHAPE operators."""
    for operator in graph.operators:
        if graph.kind(operator) != schema.BuiltinOperator.RESHAPE or len(operator.inputs) < 2:
            continue
        source, sizes = (int(i) for i in operator.inputs[:2])
        shape = graph.constant(sizes)
        batch = graph.shape(source)[:1] == (1,)
        if batch and shape is not None and shape.size and shape[0] == 1 and (shape >= 0).all():
            free = shape.copy()
            free[0] = -1
            operator.inputs = np.array([source, graph.add_constant(free)], np.int32)
            operator.builtinOptions, operator.builtinOptionsType = None, 0


def bare_bytes(content: bytes) -> int:
    """Return the size of a file without its kernels, the constants of two axes or more.

    Args:
        content: a file with dense kernels.

    Raises:
        ValueError: for bytes that are not a TFLite file.

    Example:
        >>> model = schema.ModelT(version=3, buffers=[schema.BufferT()], subgraphs=[])
        >>> bare_bytes(write(model)) == len(write(model))  # it has none
        True
    """
    model = read(content)
    for subgraph in model.subgraphs:
        graph = Graph(model, subgraph)
        for index, tensor in enumerate(graph.tensors):
            values = graph.constant(index)
            if values is not None and values.ndim > 1:
                tensor.buffer = 0
    return len(write(model))
