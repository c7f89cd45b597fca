"""The graph of a TFLite file while operators and tensors are added to it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

FLOAT32 = schema.TensorType.FLOAT32
FLOAT16 = schema.TensorType.FLOAT16
INT8 = schema.TensorType.INT8
_DTYPES = {
    FLOAT32: np.float32,
    FLOAT16: np.float16,
    INT8: np.int8,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
}
_TYPES = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items()}
# An operator of this number or more is stored as it in the older field of the kind.
_LARGEST_OLD_CODE = 127


class Graph:
    """One subgraph of a model.

    Args:
        model: the `schema.ModelT`.
        subgraph: one of its subgraphs.
    """

    def __init__(self, model: Any, subgraph: Any) -> None:
        self.model = model
        self.tensors = subgraph.tensors
        self.operators = subgraph.operators
        self.outputs = {int(i) for i in subgraph.outputs}

    def kind(self, operator: Any) -> int:
        """Return the kind of an operator, as in `schema.BuiltinOperator`."""
        return int(self.model.operatorCodes[operator.opcodeIndex].builtinCode)

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        shape = self.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def constant(self, tensor: int) -> np.ndarray[Any, Any] | None:
        """Return the values of a densely stored constant of a known type, else None."""
        found = self.tensors[tensor]
        data = self.model.buffers[found.buffer].data
        if data is None or found.sparsity is not None or found.type not in _DTYPES:
            return None
        values: np.ndarray[Any, Any] = data.view(_DTYPES[found.type]).reshape(self.shape(tensor))
        return values

    def add_constant(self, values: np.ndarray[Any, Any], quantization: Any = None) -> int:
        """Add a constant tensor, and return its index."""
        data = np.ascontiguousarray(values)
        self.model.buffers.append(schema.BufferT(data.reshape(-1).view(np.uint8)))
        tensor = self.add_tensor(data.shape, _TYPES[data.dtype], quantization)
        self.tensors[tensor].buffer = len(self.model.buffers) - 1
        return tensor

    def add_tensor(self, shape: tuple[int, ...], kind: int, quantization: Any) -> int:
        """Add a tensor that is computed, and return its index."""
        sizes = np.array(shape, np.int32)
        self.tensors.append(schema.TensorT(shape=sizes, type=kind, quantization=quantization))
        return len(self.tensors) - 1

    def code(self, kind: int, version: int) -> int:
        """Return the index of a kind of operator, which is added if the model does not have it."""
        codes = self.model.operatorCodes
        known = [(code.builtinCode, code.version) for code in codes]
        if (kind, version) not in known:
            old = min(kind, _LARGEST_OLD_CODE)
            codes.append(schema.OperatorCodeT(old, None, version, kind))
            return len(known)
        return known.index((kind, version))

    def operator(
        self,
        kind: int,
        inputs: list[int],
        outputs: list[int],
        options: Any = None,
        version: int = 1,
    ) -> Any:
        """Return a new operator, which the caller puts into the order of execution.

        Args:
            kind: as in `schema.BuiltinOperator`.
            inputs: tensors that it reads.
            outputs: tensors that it computes.
            options: the schema's object with its options.
            version: of the kind, as in the schema.
        """
        operator = schema.OperatorT(
            opcodeIndex=self.code(kind, version),
            inputs=np.array(inputs, np.int32),
            outputs=np.array(outputs, np.int32),
        )
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = options
        return operator

    def reshape(self, tensor: int, shape: tuple[int, ...], target: int | None = None) -> Any:
        """Return an operator that reshapes a tensor, for any number of images.

        Args:
            tensor: index of the tensor to reshape.
            shape: the new shape for one image, with the images first.
            target: tensor to compute; by default a new one.
        """
        if target is None:
            source = self.tensors[tensor]
            target = self.add_tensor(shape, source.type, copy.copy(source.quantization))
        sizes = self.add_constant(np.array([-1, *shape[1:]], np.int32))
        return self.operator(schema.BuiltinOperator.RESHAPE, [tensor, sizes], [target])
