"""Rules of the layers that add and subtract tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hydra_tf.bounds.rules.nodes import Affine, Node
from hydra_tf.core.lazy import keras

Shapes = tuple[tuple[int | None, ...], ...]


def merge(layer: Any, shapes: Shapes) -> list[Node]:
    """The sum of its inputs."""
    total = _applied(layer, shapes)
    return [Affine(total, total, terms=len(shapes) - 1, fan_out=_copies(shapes))]


def difference(layer: Any, shapes: Shapes) -> list[Node]:
    """The first input less the second."""
    less = _applied(layer, shapes)
    return [Affine(less, lambda a, b: less(a, -b), terms=1, fan_out=_copies(shapes))]


def _applied(layer: Any, shapes: Shapes) -> Callable[..., Any]:
    """The layer itself: where inputs have fewer axes than others, it says where axes go in.

    Raises:
        ValueError: for ``a + b`` of tensors of different rank, which mixes samples.
    """
    if isinstance(layer, keras.layers.Layer):
        return lambda *x: layer(list(x))
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            f'Operation "{layer.name}" pairs the samples of one tensor with the positions of '
            f"another, for their shapes are {' and '.join(map(str, shapes))}; reshape them to the "
            f"same number of axes, or use keras.layers.{type(layer).__name__}."
        )
    return lambda *x: layer(*x)


def _copies(shapes: Shapes) -> int:
    """Over how many outputs, at most, a value of an input is broadcast."""
    most = max(map(len, shapes)) - 1
    inner = [(1,) * (most - len(shape) + 1) + tuple(n or 1 for n in shape[1:]) for shape in shapes]
    outputs = math.prod(map(max, zip(*inner, strict=True)))
    return max(outputs // math.prod(each) for each in inner)
