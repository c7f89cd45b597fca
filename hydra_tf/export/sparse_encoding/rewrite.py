"""Operators whose kernels are replaced by sparse ones, according to a plan."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hydra_tf.export.sparse_encoding.csr import Layout, encode
from hydra_tf.export.sparse_encoding.graph import FLOAT16, FLOAT32, INT8, Graph
from hydra_tf.export.sparse_encoding.plans import Plan

_OPERATORS = schema.BuiltinOperator
# XNNPACK takes the sparse kernel of an earlier version of the operator for a dense one, and reads
# beyond its end.
_SPARSE_DENSE_LAYER = 8


class Rewriter:
    """Adds the operators of plans to a graph; kernels that operators share are stored once.

    Args:
        graph: the graph, whose order of execution the caller rebuilds from what is returned.
        half: for each tensor that a DEQUANTIZE operator makes of a float16 constant, the constant.
    """

    def __init__(self, graph: Graph, half: dict[int, int]) -> None:
        self._graph = graph
        self._half = half
        self.stored: dict[Any, int] = {}
        self._reshaped = {
            int(operator.outputs[0]): int(operator.inputs[0])
            for operator in graph.operators
            if graph.kind(operator) == _OPERATORS.RESHAPE
        }

    def apply(self, operator: Any, plan: Plan) -> list[Any]:
        """Return the operators that take the place of one.

        Args:
            operator: a convolution or a dense layer.
            plan: how its kernel is stored.
        """
        if len(plan.layouts) > 1:
            return self._in_pieces(operator, plan)
        kernel = int(operator.inputs[1])
        before, stored = self._store(kernel, plan.shape, plan.layouts[0], direct=plan.direct)
        if len(plan.shape) > len(self._graph.shape(kernel)):
            return [*before, *self._as_convolution(operator, stored, plan.shape)]
        operator.inputs = np.array([operator.inputs[0], stored, *operator.inputs[2:]], np.int32)
        if plan.direct:
            operator.opcodeIndex = self._graph.code(self._graph.kind(operator), _SPARSE_DENSE_LAYER)
        return [*before, operator]

    def _store(
        self,
        tensor: int,
        shape: tuple[int, ...] | None,
        layout: Layout | None,
        part: tuple[int, int] | None = None,
        direct: bool = False,
    ) -> tuple[list[Any], int]:
        """Store a constant, or a part of it, and return what decodes it and its new tensor.

        Args:
            tensor: the constant, or what DEQUANTIZE makes of it.
            shape: its new shape; None for the old one.
            layout: sparse layout; None for a dense one.
            part: first position along the first axis, and the one after the last; None for all.
            direct: whether the operator reads the sparse constant itself.
        """
        key = (tensor, shape, layout, part, direct)
        if key in self.stored:
            return [], self.stored[key]
        graph, source = self._graph, self._half.get(tensor, tensor)
        values = graph.constant(source)
        assert values is not None, "only constants are stored"
        quantization = graph.tensors[source].quantization
        if part is not None:
            values = values[slice(*part)]
            quantization = _part_of(quantization, part)
        values = values if shape is None else values.reshape(shape)
        before: list[Any] = []
        if layout is None:
            stored = graph.add_constant(values, quantization)
        elif direct:
            stored = self._add_sparse(values, layout, quantization)
        else:
            # LiteRT refuses the quantization of the sparse constant: that of DENSIFY counts.
            sparse = self._add_sparse(values, layout, None)
            stored = graph.add_tensor(values.shape, graph.tensors[source].type, quantization)
            before.append(graph.operator(_OPERATORS.DENSIFY, [sparse], [stored]))
        if source != tensor:
            decoded, stored = stored, graph.add_tensor(values.shape, FLOAT32, None)
            before.append(graph.operator(_OPERATORS.DEQUANTIZE, [decoded], [stored]))
        self.stored[key] = stored
        return before, stored

    def _add_sparse(self, values: np.ndarray[Any, Any], layout: Layout, quantization: Any) -> int:
        """Add a sparse constant, and return its tensor."""
        data, sparsity = encode(values, layout)
        tensor = self._graph.add_constant(data, quantization)
        self._graph.tensors[tensor].shape = np.array(values.shape, np.int32)
        self._graph.tensors[tensor].sparsity = sparsity
        return tensor

    def _as_convolution(self, layer: Any, kernel: int, shape: tuple[int, ...]) -> list[Any]:
        """Return a dense layer as a convolution between two changes of shape."""
        graph = self._graph
        source, target = self._before_reshape(int(layer.inputs[0])), int(layer.outputs[0])
        images = int(np.prod(graph.shape(source))) // int(np.prod(shape[1:]))
        first = self._noted(graph.reshape(source, (images, *shape[1:])))
        output = graph.tensors[target]
        made = graph.add_tensor((images, 1, 1, shape[0]), output.type, output.quantization)
        options = schema.Conv2DOptionsT(
            padding=schema.Padding.VALID,
            strideW=1,
            strideH=1,
            fusedActivationFunction=layer.builtinOptions.fusedActivationFunction,
        )
        before: list[Any] = []
        bias = [int(i) for i in layer.inputs[2:] if i >= 0]
        if not bias:
            before, zeros = self._zero_bias(source, kernel, int(layer.inputs[1]) in self._half)
            bias = [zeros]
        inputs = [int(first.outputs[0]), kernel, *bias]
        version = 3 if output.type == INT8 else 1
        convolution = graph.operator(_OPERATORS.CONV_2D, inputs, [made], options, version)
        last = self._noted(graph.reshape(made, graph.shape(target), target))
        return [*before, first, convolution, last]

    def _zero_bias(self, source: int, kernel: int, half: bool) -> tuple[list[Any], int]:
        """Return a bias of zeros, which a convolution must have, and what decodes it."""
        graph = self._graph
        size = graph.shape(kernel)[0]
        if half:
            # tf.lite computes NaN from a float32 bias next to a float16 kernel.
            zeros = graph.add_constant(np.zeros([size], np.float16))
            decoded = graph.add_tensor((size,), FLOAT32, None)
            return [graph.operator(_OPERATORS.DEQUANTIZE, [zeros], [decoded])], decoded
        if graph.tensors[kernel].type != INT8:
            return [], graph.add_constant(np.zeros([size], np.float32))
        quantization = copy.copy(graph.tensors[kernel].quantization)
        quantization.scale = quantization.scale * graph.tensors[source].quantization.scale
        return [], graph.add_constant(np.zeros([size], np.int32), quantization)

    def _noted(self, reshape: Any) -> Any:
        """Return a new RESHAPE operator, after noting what it reads."""
        self._reshaped[int(reshape.outputs[0])] = int(reshape.inputs[0])
        return reshape

    def _before_reshape(self, tensor: int) -> int:
        """Return the tensor before all changes of shape that lead to a tensor."""
        while tensor in self._reshaped:
            tensor = self._reshaped[tensor]
        return tensor

    def _in_pieces(self, operator: Any, plan: Plan) -> list[Any]:
        """Return convolutions of a part of the outputs each, and their concatenation."""
        graph = self._graph
        image, kernel, *bias = (int(i) for i in operator.inputs)
        (target,) = (int(i) for i in operator.outputs)
        output = graph.tensors[target]
        sizes = [len(p) for p in np.array_split(np.arange(plan.shape[0]), len(plan.layouts))]
        new: list[Any] = []
        made = []
        for size, layout, end in zip(sizes, plan.layouts, np.cumsum(sizes), strict=True):
            part = (int(end) - size, int(end))
            inputs = [image]
            for tensor, form in [(kernel, layout), *((each, None) for each in bias)]:
                before, stored = self._store(tensor, None, form, part)
                new += before
                inputs.append(stored)
            shape = (*graph.shape(target)[:-1], size)
            made.append(graph.add_tensor(shape, output.type, output.quantization))
            convolution = copy.copy(operator)
            convolution.inputs = np.array(inputs, np.int32)
            convolution.outputs = np.array(made[-1:], np.int32)
            new.append(convolution)
        options = schema.ConcatenationOptionsT(axis=len(graph.shape(target)) - 1)
        version = 2 if output.type == INT8 else 1
        return [*new, graph.operator(_OPERATORS.CONCATENATION, made, [target], options, version)]


def _part_of(quantization: Any, part: tuple[int, int]) -> Any:
    """Return the quantization of a part of a tensor along its first axis."""
    if quantization is None or quantization.scale is None or len(quantization.scale) == 1:
        return quantization
    found = copy.copy(quantization)
    found.scale = quantization.scale[slice(*part)]
    found.zeroPoint = quantization.zeroPoint[slice(*part)]
    return found


def half_constants(graph: Graph) -> dict[int, int]:
    """Return, for each tensor that DEQUANTIZE makes of a float16 constant, the constant."""
    return {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators
        if graph.kind(operator) == _OPERATORS.DEQUANTIZE
        and graph.tensors[int(operator.inputs[0])].type == FLOAT16
        and graph.constant(int(operator.inputs[0])) is not None
    }
