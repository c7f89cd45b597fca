"""What Keras's callbacks remember from epoch to epoch, for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

_REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "best", "wait", "best_epoch", "stopped_epoch", "best_weights",
    ),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        "best", "_batches_seen_since_last_saving", "_last_batch_seen",
    ),
}  # fmt: skip


def remembered(callbacks: Sequence[Any]) -> dict[str, Any]:
    """Return what EarlyStopping, ReduceLROnPlateau and ModelCheckpoint remember.

    Args:
        callbacks: of a training; the others are passed over.

    Returns:
        Arrays, and lists of arrays spread out, by callback and attribute; None is left out.

    Example:
        >>> early = keras.callbacks.EarlyStopping()
        >>> early.wait, early.best = 2, 0.5
        >>> sorted(remembered([early]))
        ['EarlyStopping 0 best', 'EarlyStopping 0 stopped_epoch', 'EarlyStopping 0 wait']
    """
    found: dict[str, Any] = {}
    for key, callback, name in _places(callbacks):
        value = getattr(callback, name, None)
        if name == "best_weights":
            found |= {f"{key}/{i}": weights for i, weights in enumerate(value or [])}
        elif value is not None:
            found[key] = np.asarray(value)
    return found


def remember(callbacks: Sequence[Any], arrays: Mapping[str, Any]) -> None:
    """Have callbacks remember what :func:`remembered` took.

    Args:
        callbacks: as there.
        arrays: a checkpoint's, which may hold other things too.

    Example:
        >>> early = keras.callbacks.EarlyStopping()
        >>> remember([early], {"EarlyStopping 0 wait": np.asarray(2)})
        >>> early.wait
        2
    """
    for key, callback, name in _places(callbacks):
        if name == "best_weights":
            count = sum(each.startswith(f"{key}/") for each in arrays)
            value: Any = [arrays[f"{key}/{i}"] for i in range(count)] or None
        else:
            value = arrays[key].item() if key in arrays else None
        if value is not None:
            setattr(callback, name, value)


def _places(callbacks: Sequence[Any]) -> Iterator[tuple[str, Any, str]]:
    """Each thing to remember: its key, the callback and the attribute."""
    for kind, names in _REMEMBERED.items():
        # By number within the kind: the chief of several workers has more callbacks than others.
        for i, callback in enumerate(c for c in callbacks if isinstance(c, kind)):
            for name in names:
                yield f"{kind.__name__} {i} {name}", callback, name
