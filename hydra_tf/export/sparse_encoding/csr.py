"""Sparse arrays in the forms that TFLite can read: compressed rows along one axis.

An array is traversed with one axis last. Along it only nonzero blocks are stored, with their
positions (`indices`); `segments` says where each row starts among them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_INDEX_TYPES = (
    (np.uint8, schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    (np.uint16, schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    (np.int32, schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
)


def _index_type(largest: int) -> tuple[Any, int, Any]:
    """Return the smallest type of numbers up to `largest`, and how the schema calls it."""
    return next(kind for kind in _INDEX_TYPES if largest <= np.iinfo(kind[0]).max)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array is stored sparsely.

    Args:
        axis: the compressed axis, which is traversed last.
        block: number of neighbours along it that are stored as one.
        bytes: size of values, indices and segments.
    """

    axis: int
    block: int
    bytes: int


def _rows(array: np.ndarray[Any, Any], axis: int, block: int) -> np.ndarray[Any, Any]:
    """Return [rows, blocks, block]: the array traversed with `axis` last."""
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(-1, array.shape[axis] // block, block)


def layout(array: np.ndarray[Any, Any], axis: int, block: int = 1) -> Layout:
    """Return the layout of an array along an axis, with its size.

    Args:
        array: any shape.
        axis: axis to compress.
        block: a divisor of its length.

    Example:
        >>> layout(np.eye(4, dtype="float32"), axis=1)  # 4 values, 4 indices, 5 segments
        Layout(axis=1, block=1, bytes=25)
    """
    blocks = array if block == 1 else _rows(array, axis, block).any(axis=-1)
    kept = max(1, int(np.count_nonzero(blocks)))
    columns = array.shape[axis] // block
    rows = array.size // array.shape[axis]
    index, segment = (np.dtype(_index_type(n)[0]).itemsize for n in (columns - 1, kept))
    return Layout(axis, block, kept * (block * array.itemsize + index) + (rows + 1) * segment)


def smallest(array: np.ndarray[Any, Any], blocks: tuple[int, ...] = (1,)) -> Layout:
    """Return the smallest layout over all axes and the given block sizes.

    Blocks are looked for along the last axis only, the input channels of a kernel.

    Example:
        >>> smallest(np.ones([200, 2], "int8")).axis  # the segments of 2 rows instead of 200
        0
    """
    found = [layout(array, axis) for axis in range(array.ndim)]
    last = array.ndim - 1
    found += [
        layout(array, last, block) for block in blocks if block > 1 and not array.shape[-1] % block
    ]
    return min(found, key=lambda each: each.bytes)


def encode(
    array: np.ndarray[Any, Any], chosen: Layout
) -> tuple[np.ndarray[Any, Any], schema.SparsityParametersT]:
    """Return the stored values, and the schema's description of their positions.

    Args:
        array: any shape.
        chosen: one of its layouts.

    Example:
        >>> array = np.array([[0, 5, 0], [7, 0, 9]], "int8")
        >>> values, sparsity = encode(array, layout(array, axis=1))
        >>> values.tolist(), sparsity.dimMetadata[1].arrayIndices.values.tolist()
        ([5, 7, 9], [1, 0, 2])
        >>> sparsity.dimMetadata[1].arraySegments.values.tolist()
        [0, 1, 3]
    """
    rows = _rows(array, chosen.axis, chosen.block)
    kept: np.ndarray[Any, Any] = np.any(rows, axis=-1)
    if not kept.any():
        kept[0, 0] = True  # LiteRT does not take a tensor without values for a constant
    row, column = np.nonzero(kept)
    segments = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(rows)))])
    axes = [axis for axis in range(array.ndim) if axis != chosen.axis]
    order = [*axes, chosen.axis]
    dimensions = [_dense(array.shape[axis]) for axis in axes]
    dimensions.append(_compressed(segments, column, rows.shape[1]))
    block_map = []
    if chosen.block > 1:
        order.append(array.ndim)
        block_map.append(chosen.axis)
        dimensions.append(_dense(chosen.block))
    sparsity = schema.SparsityParametersT(
        np.array(order, np.int32), np.array(block_map, np.int32), dimensions
    )
    return rows[row, column].ravel(), sparsity


def _dense(size: int) -> schema.DimensionMetadataT:
    return schema.DimensionMetadataT(schema.DimensionType.DENSE, size)


def _compressed(
    segments: np.ndarray[Any, Any], indices: np.ndarray[Any, Any], columns: int
) -> schema.DimensionMetadataT:
    """Return a compressed dimension, each vector in the smallest type."""
    vectors: list[Any] = []
    for values, largest in ((segments, int(segments[-1])), (indices, columns - 1)):
        dtype, union, vector = _index_type(largest)
        vectors += [union, vector(values.astype(dtype))]
    return schema.DimensionMetadataT(schema.DimensionType.SPARSE_CSR, 0, *vectors)
