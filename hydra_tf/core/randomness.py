"""Random numbers for the samples of a batch, even if it is split into slices.

The random numbers of a sample depend on the seed and on the position of the sample in the whole
batch, not on the replica or microbatch that processes the sample.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf

_slice: ContextVar[tuple[Any, Any] | None] = ContextVar("hydra_tf_slice", default=None)


@contextlib.contextmanager
def slice_of_batch(first: Any, total: Any) -> Iterator[None]:
    """Declare that the samples within this context are a slice of a larger batch.

    Args:
        first: position of the first sample in the whole batch.
        total: number of samples of the whole batch.
    """
    token = _slice.set((first, total))
    try:
        yield
    finally:
        _slice.reset(token)


def current_slice(count: Any) -> tuple[Any, Any]:
    """Return the position of the slice in the whole batch, and the size of the batch.

    Args:
        count: number of samples of the slice.

    Example:
        >>> current_slice(8)
        (0, 8)
    """
    return _slice.get() or (0, count)


def for_samples(draw: Callable[[Any], Any], shape: Any) -> Any:
    """Draw random numbers for the whole batch, and return those of the current slice.

    Args:
        draw: maps a shape to random numbers; a pure function, such as a stateless random
            operation with its seed.
        shape: shape of the result, as a tensor; the first axis is that of the samples.

    Example:
        >>> def draw(shape):
        ...     return tf.random.stateless_uniform(shape, [0, 0])
        >>> with slice_of_batch(first=2, total=4):
        ...     drawn = for_samples(draw, tf.constant([2, 3]))
        >>> bool(tf.reduce_all(drawn == draw([4, 3])[2:]))
        True
    """
    current = _slice.get()
    if current is None:
        return draw(shape)
    first, total = current
    whole = draw(tf.concat([tf.reshape(total, [1]), shape[1:]], 0))
    return whole[first : first + shape[0]]


def stateless_seed(seed: Any) -> tf.Tensor:
    """Return a seed for stateless random operations, int32 [2].

    Args:
        seed: a whole number, or such a seed, which is returned unchanged.

    Example:
        >>> stateless_seed(7).numpy().tolist()
        [7, 0]
    """
    if isinstance(seed, int | np.integer):
        return tf.constant([int(seed) % (1 << 31), 0], tf.int32)
    return tf.cast(seed, tf.int32)
