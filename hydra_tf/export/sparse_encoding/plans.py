"""The ways in which an operator's kernel can be stored, with their sizes.

A kernel of a TFLite file has its outputs first and its inputs last: [outputs, height, width,
inputs] of a convolution, [outputs, inputs] of a dense layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hydra_tf.export.sparse_encoding.csr import Layout, layout, smallest

Preference = Literal["size", "latency"]
PREFERENCES = get_args(Preference)

# Positions up to this number fit into one byte.
_WIDE = 256
# What operators and tensors cost in addition to values and positions.
_DENSIFY_BYTES, _RESHAPES_BYTES, _PIECE_BYTES = 230, 300, 300
# Inputs in a block of the layouts that LiteRT's dense layers read directly, by bytes of a value.
_DIRECT_BLOCKS = {4: 4, 1: 16}
# Largest share of nonzero blocks for which a dense layer runs faster on them than densely.
_FASTER_BLOCKS = 0.15
_BLOCKS = (1, 4, 16)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to store a kernel.

    Args:
        bytes: its size, with the operators and tensors that it needs in addition.
        layouts: sparse layout of each piece, of one for the kernel as a whole; none if the kernel
            stays dense.
        shape: the kernel's shape; if a dense layer's has four axes, it becomes a convolution.
        direct: whether the operator reads the sparse kernel itself, without DENSIFY.
    """

    bytes: int
    layouts: tuple[Layout, ...]
    shape: tuple[int, ...]
    direct: bool = False


def choose(kind: int, values: np.ndarray[Any, Any], groups: int, prefer: Preference) -> Plan:
    """Return the best plan for a kernel.

    Args:
        kind: operator that reads it, of `schema.BuiltinOperator`.
        values: the kernel.
        groups: number of groups of its inputs, 1 but for grouped convolutions.
        prefer: the smallest plan, or the smallest of those that do not run slower.

    Example:
        >>> kernel = np.zeros([100, 1024], "float32")
        >>> kernel[:, ::20] = 1.0
        >>> dense_layer = schema.BuiltinOperator.FULLY_CONNECTED
        >>> choose(dense_layer, kernel, 1, "size").shape  # as a convolution
        (100, 4, 1, 256)
    """
    plans = [Plan(values.nbytes, (), values.shape)]
    if kind == schema.BuiltinOperator.FULLY_CONNECTED:
        plans += _dense_layer(values)
        blocks = _direct(values)
        if prefer == "latency" and blocks and _is_faster(values, blocks):
            return blocks
        plans += [blocks] if blocks else []
    else:
        plans.append(_decoded(values, values.shape))
        outputs, inputs = values.shape[0], values.shape[-1]
        splits = kind == schema.BuiltinOperator.CONV_2D and groups == 1
        if splits and outputs > _WIDE and inputs > _WIDE:
            plans.append(_split(values))
    return min(plans, key=lambda plan: plan.bytes)


def _decoded(values: np.ndarray[Any, Any], shape: tuple[int, ...], extra: int = 0) -> Plan:
    """Return the smallest plan with DENSIFY for a kernel in another shape."""
    found = smallest(values.reshape(shape), _BLOCKS)
    return Plan(found.bytes + _DENSIFY_BYTES + extra, (found,), shape)


def _dense_layer(values: np.ndarray[Any, Any]) -> list[Plan]:
    """Return the plans with DENSIFY for a dense layer's kernel."""
    outputs, inputs = values.shape
    narrow = max(width for width in range(1, min(inputs, _WIDE) + 1) if inputs % width == 0)
    shapes = {(outputs, inputs // width, 1, width) for width in (narrow, inputs)}
    plans = [_decoded(values, shape, _RESHAPES_BYTES) for shape in sorted(shapes)]
    if values.dtype == np.float32:
        # Behind DENSIFY, XNNPACK cannot load an int8 kernel of a dense layer, and LiteRT converts
        # a float16 kernel for every image; as kernels of convolutions both are converted once.
        plans.append(_decoded(values, values.shape))
    return plans


def _direct(values: np.ndarray[Any, Any]) -> Plan | None:
    """Return the plan in blocks of inputs that a dense layer reads without DENSIFY, if any."""
    block = _DIRECT_BLOCKS.get(values.itemsize)
    if block is None or values.shape[1] % block:
        return None
    found = layout(values, 1, block)
    return Plan(found.bytes + _DENSIFY_BYTES // 2, (found,), values.shape, direct=True)


def _is_faster(values: np.ndarray[Any, Any], blocks: Plan) -> bool:
    """Return whether a float32 kernel has so few nonzero blocks that it runs faster on them."""
    block = blocks.layouts[0].block
    share = values.reshape(-1, block).any(axis=1).mean()
    return values.dtype == np.float32 and bool(share <= _FASTER_BLOCKS)


def _split(values: np.ndarray[Any, Any]) -> Plan:
    """Return the plan for a wide convolution in pieces of outputs, which are concatenated."""
    pieces = -(-len(values) // _WIDE)
    layouts = tuple(smallest(piece) for piece in np.array_split(values, pieces))
    extra = pieces * (_DENSIFY_BYTES + _PIECE_BYTES)
    return Plan(sum(each.bytes for each in layouts) + extra, layouts, values.shape)
