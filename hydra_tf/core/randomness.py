"""Random numbers for the samples of a batch, also where several replicas share it.

A sample's numbers depend on the seed and on its place in the whole batch, not on which
replica, or which part of a batch worked on in parts, it falls to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf

_part: ContextVar[tuple[Any, Any] | None] = ContextVar("hydra_tf_slice", default=None)


@contextlib.contextmanager
def slice_of_batch(first: Any, total: Any) -> Iterator[None]:
    """Within this context the samples are consecutive ones of a larger batch.

    Args:
        first: place of the first of them in the whole batch.
        total: number of samples of the whole batch.
    """
    token = _part.set((first, total))
    try:
        yield
    finally:
        _part.reset(token)


def current_slice(count: Any) -> tuple[Any, Any]:
    """Return the place of the first sample at hand in the whole batch, and the batch's size.

    Args:
        count: number of samples at hand.

    Example:
        >>> current_slice(8)
        (0, 8)
    """
    return _part.get() or (0, count)


def for_samples(draw: Callable[[Any], Any], shape: Any) -> Any:
    """Return what is drawn for the samples at hand.

    Args:
        draw: maps a shape to random numbers; a pure function, such as a stateless random
            operation with its seed.
        shape: the shape wanted, a tensor; its first axis counts the samples at hand.

    Example:
        >>> def draw(shape):
        ...     return tf.random.stateless_uniform(shape, [0, 0])
        >>> with slice_of_batch(first=2, total=4):
        ...     part = for_samples(draw, tf.constant([2, 3]))
        >>> bool(tf.reduce_all(part == draw([4, 3])[2:]))
        True
    """
    part = _part.get()
    if part is None:
        return draw(shape)
    first, total = part
    whole = draw(tf.concat([tf.reshape(total, [1]), shape[1:]], 0))
    return whole[first : first + shape[0]]


def stateless_seed(seed: Any) -> tf.Tensor:
    """Return the seed of stateless random operations, int32 [2], for a whole number.

    Example:
        >>> stateless_seed(7).numpy().tolist()
        [7, 0]
    """
    if isinstance(seed, int | np.integer):
        return tf.constant([int(seed) % (1 << 31), 0], tf.int32)
    return tf.cast(seed, tf.int32)
