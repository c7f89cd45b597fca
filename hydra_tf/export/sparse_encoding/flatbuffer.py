"""TFLite files read and written: equal vectors once, constants aligned, nothing unused.

The layout is that of the TFLite schema, whose classes come with LiteRT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_IDENTIFIER = b"TFL3"
# XNNPACK reads constants in vectors of 16 bytes.
_ALIGNMENT = 16


def read(content: bytes) -> Any:
    """Return the model of a TFLite file as a tree of the schema's objects (`schema.ModelT`).

    Raises:
        ValueError: for bytes that are not a TFLite file.

    Example:
        >>> read(b"something else")
        Traceback (most recent call last):
        ValueError: The bytes are not a TFLite file: they have no identifier TFL3 at position 4.
    """
    if content[4:8] != _IDENTIFIER:
        raise ValueError(
            "The bytes are not a TFLite file: they have no identifier TFL3 at position 4."
        )
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def write(model: Any) -> bytes:
    """Return the TFLite file of a model, without tensors and constants that nothing uses.

    The model is changed: what is unused is removed from it.

    Args:
        model: a `schema.ModelT`.

    Example:
        >>> model = schema.ModelT(version=3, buffers=[schema.BufferT()], subgraphs=[])
        >>> read(write(model)).version
        3
    """
    for subgraph in model.subgraphs:
        _remove_unused_tensors(model, subgraph)
    _remove_unused_codes(model)
    _merge_buffers(model)
    builder = _Builder()
    buffers = model.buffers
    model.buffers = [_AlignedBuffer(buffer.data) for buffer in buffers]
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    model.buffers = buffers
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """A builder that writes equal vectors and equal texts once."""

    head: int  # start of what has been written: a builder writes from the end to the start

    def __init__(self) -> None:
        super().__init__(1 << 16)
        self._written: dict[Any, int] = {}

    def once(self, key: Any, create: Callable[[], int]) -> int:
        """Return the position of what `create` writes, which has been written if the key has."""
        if key not in self._written:
            self._written[key] = create()
        return self._written[key]

    def CreateNumpyVector(self, x: np.ndarray[Any, Any]) -> int:  # noqa: N802
        create = super().CreateNumpyVector
        return self.once((x.dtype.str, x.tobytes()), lambda: create(x))

    def CreateString(self, s: Any, *arguments: Any) -> int:  # noqa: N802
        create = super().CreateString
        return self.once(("text", s), lambda: create(s, *arguments))

    def aligned_bytes(self, data: np.ndarray[Any, Any]) -> int:
        """Write a vector of bytes whose first byte has an aligned position."""
        content = data.tobytes()
        self.StartVector(1, len(content), _ALIGNMENT)
        end = self.head
        self.head = end - len(content)
        self.Bytes[self.head : end] = content
        self.vectorNumElems = len(content)
        return self.EndVector()


class _AlignedBuffer:
    """A constant of a file; the schema's own class would not align it."""

    def __init__(self, data: np.ndarray[Any, Any] | None) -> None:
        self._data = data

    def Pack(self, builder: _Builder) -> int:  # noqa: N802
        """Write the buffer, as `schema.BufferT.Pack` does."""
        position = None if self._data is None else builder.aligned_bytes(self._data)
        schema.BufferStart(builder)
        if position is not None:
            schema.BufferAddData(builder, position)
        return schema.BufferEnd(builder)


def _renumber(indices: Any, new: dict[int, int]) -> Any:
    """Return renumbered indices, where -1 stands for an optional tensor that is absent."""
    return None if indices is None else np.array([new.get(int(i), -1) for i in indices], np.int32)


def _remove_unused_tensors(model: Any, subgraph: Any) -> None:
    """Remove the tensors that no operator, input or output of a subgraph refers to."""
    lists = [subgraph.inputs, subgraph.outputs]
    for operator in subgraph.operators:
        lists += [operator.inputs, operator.outputs, operator.intermediates]
    used = sorted({int(i) for indices in lists if indices is not None for i in indices} - {-1})
    new = {old: position for position, old in enumerate(used)}
    subgraph.tensors = [subgraph.tensors[old] for old in used]
    subgraph.inputs = _renumber(subgraph.inputs, new)
    subgraph.outputs = _renumber(subgraph.outputs, new)
    for operator in subgraph.operators:
        for name in ("inputs", "outputs", "intermediates"):
            setattr(operator, name, _renumber(getattr(operator, name), new))
    position = model.subgraphs.index(subgraph)
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == position:
            for named in [*(signature.inputs or []), *(signature.outputs or [])]:
                named.tensorIndex = new[named.tensorIndex]


def _remove_unused_codes(model: Any) -> None:
    """Remove the kinds of operators that no operator is of."""
    operators = [operator for subgraph in model.subgraphs for operator in subgraph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[old] for old in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def _merge_buffers(model: Any) -> None:
    """Keep one buffer for each content; by the schema, buffer 0 is the empty one."""
    owners = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    owners += model.metadata or []
    buffers, position = [schema.BufferT()], {b"": 0}
    for owner in owners:
        data = model.buffers[owner.buffer].data
        content = b"" if data is None else data.tobytes()
        if content not in position:
            position[content] = len(buffers)
            buffers.append(model.buffers[owner.buffer])
        owner.buffer = position[content]
    model.buffers = buffers
