"""Traced graphs of models, kept for as long as they are true of them."""

from __future__ import annotations

import functools
import re
import types
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.lazy import keras, tf

# Our assertions end in a full stop; those of TensorFlow's own checks do not.
_ASSERTED = re.compile(r"assertion failed: \[(.+?\.)\]")
_PLAIN = (bool, int, float, str, bytes, type(None))


class Graphs:
    """What is traced once for a model and a key, and goes when the model goes.

    A graph reads the weights whenever it is run, but what Python decided while it was traced
    is fixed in it. Graphs of a model that was changed in place since are made anew.

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
        self._kept: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def __len__(self) -> int:
        """Number of models that have graphs."""
        return len(self._kept)

    def get(self, model: Any, key: Hashable, trace: Callable[[Callable[[], Any]], Any]) -> Any:
        """Return the graph of a model under a key.

        Args:
            model: a Keras model, or anything else that a weak reference can be made of.
            key: what the graph depends on beside the model.
            trace: makes it, given a weak reference to the model: the graph must not keep the
                model alive.
        """
        now = _state(model)
        before, graphs = self._kept.get(model, (None, {}))
        if before != now:
            graphs = {}
            self._kept[model] = now, graphs
        if key not in graphs:
            graphs[key] = trace(weakref.ref(model))
        return graphs[key]


def assertion_sentence(text: str) -> str | None:
    """Return the sentence of an assertion of ours that a graph's error tells, if it is one.

    Args:
        text: of the error.

    Example:
        >>> assertion_sentence("In a map: assertion failed: [The file is gone.] [[node Assert]]")
        'The file is gone.'
    """
    found = _ASSERTED.search(text)
    return found[1] if found else None


def _state(model: Any) -> list[Any]:
    """The layers of a model with what each holds beside its weights, made to be compared."""
    return [
        (weakref.ref(layer), getattr(layer, "compute_dtype", None), *_attributes(layer))
        for layer in all_layers(model)
    ]


def _attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of numbers, texts, functions (such as activations) and arrays."""
    known = _keras()
    for name, value in vars(layer).items():
        if name in known.books:
            continue
        if isinstance(value, _PLAIN):
            yield name, value
        elif isinstance(value, list | tuple):
            yield name, [each for each in value if isinstance(each, _PLAIN)]
        elif isinstance(value, types.FunctionType):
            yield name, weakref.ref(value)
        # Normalization holds its statistics in tensors. One of a graph has no values.
        elif isinstance(value, known.arrays) and not tf.is_symbolic_tensor(value):
            yield name, np.asarray(value).tobytes()


class _Keras(NamedTuple):
    """What is asked for too often to be looked up each time.

    Args:
        layer: the class of layers.
        arrays: the classes of arrays and tensors.
        books: attributes of any layer that no output depends on.
    """

    layer: Any
    arrays: tuple[Any, ...]
    books: frozenset[str]


@functools.cache
def _keras() -> _Keras:
    books = frozenset(vars(keras.layers.Identity()))
    return _Keras(keras.layers.Layer, (np.ndarray, tf.Tensor), books)
