"""Networks that are made again from their layer calls, with other sizes and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from hydra_tf.core.layer_calls import LayerCalls
from hydra_tf.core.layer_copies import copy_layer, copy_state
from hydra_tf.export.channel_values import call_layer


@dataclass(frozen=True, eq=False)
class Edit:
    """How a layer changes.

    Args:
        config: entries of its config with new values.
        weights: its new weights by the names of its attributes; others stay.
    """

    config: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)


def rebuild(
    model: keras.Model,
    calls: LayerCalls,
    edits: Mapping[int, Edit],
    left_out: frozenset[int] = frozenset(),
) -> keras.Model:
    """Return a functional model of the same calls, without models inside models.

    Layers stay shared, except for those without weights, of which each call gets its own. A name
    that two layers have, in different models, gets a number.

    Args:
        model: a built functional or Sequential model.
        calls: its layer calls.
        edits: changes by the index of a call; a shared layer has those of its first call.
        left_out: indices of calls of one tensor, which is returned unchanged.

    Example:
        >>> from hydra_tf.core.layer_calls import read_calls
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> calls = read_calls(net, lambda layer: None)
        >>> smaller = Edit({"units": 1}, {"kernel": np.ones([4, 1]), "bias": np.ones(1)})
        >>> rebuild(net, calls, {0: smaller}).output_shape
        (None, 1)
    """
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in model.inputs
    ]
    values, copies = list(inputs), _Copies({tensor.name for tensor in inputs})
    for index, call in enumerate(calls.calls):
        tensors = [values[source] for source in call.sources]
        if index in left_out:
            values.append(tensors[0])
        else:
            edit = edits.get(index, Edit())
            values.append(call_layer(copies.of(call.layer, edit), tensors))
            copies.copy_weights(call.layer, edit)
    outputs = [values[number] for number in calls.outputs]
    return keras.Model(
        inputs[0] if len(inputs) == 1 else inputs,
        outputs[0] if len(outputs) == 1 else outputs,
        name=model.name,
    )


@dataclass
class _Copies:
    """Copies of layers, those with weights each once.

    Args:
        names: names that are in use.
    """

    names: set[str]
    made: dict[int, Any] = field(default_factory=dict)
    filled: set[int] = field(default_factory=set)

    def of(self, layer: Any, edit: Edit) -> Any:
        """Return the copy for the next call of a layer."""
        weights = getattr(layer, "weights", [])
        if not weights or id(layer) not in self.made:
            self.made[id(layer)] = copy_layer(layer, name=self._free(layer.name), **edit.config)
        return self.made[id(layer)]

    def copy_weights(self, layer: Any, edit: Edit) -> None:
        """Give the copy, which has been called and is built, its weights."""
        if id(layer) in self.filled or not getattr(layer, "weights", []):
            return
        self.filled.add(id(layer))
        copy = self.made[id(layer)]
        if not edit.weights:
            copy_state(layer, copy)
            return
        left = dict(edit.weights)
        names = {
            id(getattr(layer, name)): name for name in left if getattr(layer, name) is not None
        }
        values = [
            left.pop(names[id(weight)]) if id(weight) in names else weight
            for weight in layer.weights
        ]
        # What is left is a bias that the layer did not have; Keras adds it last.
        copy.set_weights(
            [np.asarray(keras.ops.convert_to_numpy(v)) for v in (*values, *left.values())]
        )

    def _free(self, name: str) -> str:
        """Return a name that is not in use."""
        free, number = name, 1
        while free in self.names:
            free, number = f"{name}_{number}", number + 1
        self.names.add(free)
        return free
