"""The state of Keras's callbacks between epochs, for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hydra_tf.core.keras_private import CALLBACK_STATE

Callbacks = Sequence[keras.callbacks.Callback]


def callback_state(callbacks: Callbacks) -> dict[str, Any]:
    """Return the state of EarlyStopping, ReduceLROnPlateau and ModelCheckpoint.

    Args:
        callbacks: callbacks of a training; those of other classes are ignored.

    Returns:
        Arrays by callback and attribute: one for each array of a list, none for None.

    Example:
        >>> early = keras.callbacks.EarlyStopping()
        >>> early.wait, early.best = 2, 0.5
        >>> sorted(callback_state([early]))
        ['EarlyStopping 0 best', 'EarlyStopping 0 stopped_epoch', 'EarlyStopping 0 wait']
    """
    state: dict[str, Any] = {}
    for key, callback, name in _attributes(callbacks):
        value = getattr(callback, name, None)
        if name == "best_weights":
            state |= {f"{key}/{i}": weights for i, weights in enumerate(value or [])}
        elif value is not None:
            state[key] = np.asarray(value)
    return state


def restore_callback_state(callbacks: Callbacks, arrays: Mapping[str, Any]) -> None:
    """Restore the state of callbacks that :func:`callback_state` returned.

    Args:
        callbacks: as in :func:`callback_state`.
        arrays: arrays of a checkpoint, which may have other entries too.

    Example:
        >>> early = keras.callbacks.EarlyStopping()
        >>> restore_callback_state([early], {"EarlyStopping 0 wait": np.asarray(2)})
        >>> early.wait
        2
    """
    for key, callback, name in _attributes(callbacks):
        if name == "best_weights":
            count = sum(entry.startswith(f"{key}/") for entry in arrays)
            value: Any = [arrays[f"{key}/{i}"] for i in range(count)] or None
        else:
            value = arrays[key].item() if key in arrays else None
        if value is not None:
            setattr(callback, name, value)


def _attributes(callbacks: Callbacks) -> Iterator[tuple[str, Any, str]]:
    """Yield the key, the callback and the attribute of each value."""
    for kind, names in CALLBACK_STATE.items():
        # Numbered within the class: the chief of several workers has more callbacks than others.
        for i, callback in enumerate(
            c for c in callbacks if isinstance(c, getattr(keras.callbacks, kind))
        ):
            for name in names:
                yield f"{kind} {i} {name}", callback, name
