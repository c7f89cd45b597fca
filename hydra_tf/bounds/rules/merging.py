"""Rules of the layers and operations that add and subtract tensors."""

from __future__ import annotations

import math
from collections.abc import Callable

from hydra_tf.bounds.rules.nodes import Affine, Node
from hydra_tf.bounds.rules.registry import Shapes, register_rule
from hydra_tf.core.lazy import keras, tf


@register_rule("layers.Add", "ops.add")
def add(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the node of the sum of the inputs."""
    total = _applied(layer, shapes)
    return [Affine(total, total, terms=len(shapes) - 1, fan_out=_broadcast_copies(shapes))]


@register_rule("layers.Subtract", "ops.subtract")
def subtract(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the node of the first input minus the second."""
    difference = _applied(layer, shapes)
    return [
        Affine(
            difference,
            lambda a, b: difference(a, -b),
            terms=1,
            fan_out=_broadcast_copies(shapes),
        )
    ]


def _applied(layer: keras.layers.Layer, shapes: Shapes) -> Callable[..., tf.Tensor]:
    """Return a layer, which aligns inputs of different rank, or operation as a function of inputs.

    Raises:
        ValueError: for ``a + b`` of tensors of different rank, which mixes samples.
    """
    if isinstance(layer, keras.layers.Layer):
        return lambda *x: layer(list(x))
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            f'Operation "{layer.name}" pairs the samples of one tensor with the positions of '
            f"another, because their shapes are {' and '.join(map(str, shapes))}; reshape them to "
            f"the same number of axes, or use keras.layers.{type(layer).__name__}."
        )
    return lambda *x: layer(*x)


def _broadcast_copies(shapes: Shapes) -> int:
    """Return the largest number of outputs that one input value is broadcast to."""
    rank = max(map(len, shapes)) - 1
    inner = [(1,) * (rank - len(shape) + 1) + tuple(n or 1 for n in shape[1:]) for shape in shapes]
    outputs = math.prod(map(max, zip(*inner, strict=True)))
    return max(outputs // math.prod(shape) for shape in inner)
