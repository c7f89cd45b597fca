"""Traced graphs of models, cached until the model changes or is freed."""

from __future__ import annotations

import functools
import inspect
import re
import types
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.lazy import keras, tf

# The assertions of this library end in a full stop; those of TensorFlow do not.
_ASSERTED = re.compile(r"assertion failed: \[(.+?\.)\]")
_PLAIN = (bool, int, float, str, bytes, type(None))


def converted(function: Any) -> Any:
    """Return a callable as a graph, in which Python's conditions become those of TensorFlow.

    Args:
        function: a function, or an object that can be called.

    Example:
        >>> def sign(x):
        ...     if x > 0:
        ...         return 1.0
        ...     return -1.0
        >>> float(converted(sign)(tf.constant(-3)))
        -1.0
    """
    return tf.function(function if inspect.isroutine(function) else function.__call__)


class Graphs:
    """A cache of traced graphs by model and key; graphs are freed with their model.

    A graph reads the weights whenever it runs, but decisions that Python made during tracing
    are fixed in it. If a model was changed in place, its graphs are traced again.

    Example:
        >>> net, graphs = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)]), Graphs()
        >>> first = graphs.get(net, "key", lambda model: object())
        >>> graphs.get(net, "key", lambda model: object()) is first
        True
        >>> net.layers[0].activation = keras.activations.relu
        >>> graphs.get(net, "key", lambda model: object()) is first
        False
    """

    def __init__(self) -> None:
        self._cache: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def __len__(self) -> int:
        """Return the number of models that have graphs."""
        return len(self._cache)

    def get(self, model: Any, key: Hashable, trace: Callable[[Callable[[], Any]], Any]) -> Any:
        """Return the graph of a model under a key.

        Args:
            model: a Keras model, or another object that supports weak references.
            key: what the graph depends on apart from the model.
            trace: makes the graph, given a weak reference to the model: the graph must not keep
                the model alive.
        """
        state = _state(model)
        old_state, graphs = self._cache.get(model, (None, {}))
        if old_state != state:
            graphs = {}
            self._cache[model] = state, graphs
        if key not in graphs:
            graphs[key] = trace(weakref.ref(model))
        return graphs[key]


def assertion_sentence(text: str) -> str | None:
    """Return the sentence of a failed assertion of this library, or None for another error.

    Args:
        text: message of the error that a graph raised.

    Example:
        >>> assertion_sentence("In a map: assertion failed: [The file is gone.] [[node Assert]]")
        'The file is gone.'
    """
    match = _ASSERTED.search(text)
    return match[1] if match else None


def _state(model: Any) -> list[Any]:
    """Return the layers of a model with their attributes other than weights, for comparison."""
    return [
        (weakref.ref(layer), getattr(layer, "compute_dtype", None), *_attributes(layer))
        for layer in all_layers(model)
    ]


def _attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values of numbers, strings, functions (such as activations) and arrays."""
    classes = _keras()
    for name, value in vars(layer).items():
        if name in classes.ignored:
            continue
        if isinstance(value, _PLAIN):
            yield name, value
        elif isinstance(value, list | tuple):
            yield name, [item for item in value if isinstance(item, _PLAIN)]
        elif isinstance(value, types.FunctionType):
            yield name, weakref.ref(value)
        # Normalization stores its statistics in tensors. Symbolic tensors have no values.
        elif isinstance(value, classes.arrays) and not tf.is_symbolic_tensor(value):
            yield name, np.asarray(value).tobytes()


class _Keras(NamedTuple):
    """Facts about Keras, cached because looking them up is slow.

    Args:
        arrays: the classes of arrays and tensors.
        ignored: attributes that every layer has and that no output depends on.
    """

    arrays: tuple[Any, ...]
    ignored: frozenset[str]


@functools.cache
def _keras() -> _Keras:
    ignored = frozenset(vars(keras.layers.Identity()))
    return _Keras((np.ndarray, tf.Tensor), ignored)
