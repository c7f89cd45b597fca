"""Layers whose outputs are all zero, which 8-bit numbers cannot represent a range of."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np

_BATCH = 16


def dead_layers(model: keras.Model, images: np.ndarray[Any, Any]) -> list[str]:
    """Return the names of layers whose outputs are 0 for all images, in their order.

    Layers inside nested models are not looked at, only the outputs of these models.

    Args:
        model: a plain functional or Sequential model of one input.
        images: [n, ...] float32.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, name="logits")])
        >>> net.set_weights([np.zeros([2, 3]), np.zeros(3)])
        >>> dead_layers(net, np.ones([4, 2], "float32"))
        ['logits']
    """
    outputs = {}
    for layer in model.layers:
        # A layer that is used several times has no single output.
        with contextlib.suppress(AttributeError, ValueError):
            outputs[layer.name] = layer.output
    every_layer = keras.Model(model.inputs[0], outputs)
    dead = dict.fromkeys(outputs, True)
    for start in range(0, len(images), _BATCH):
        values = every_layer(images[start : start + _BATCH], training=False)
        for name, value in values.items():
            dead[name] = dead[name] and not np.any(value)
    return [name for name in outputs if dead[name]]


def explain_dead_layers(
    error: RuntimeError, model: keras.Model, images: np.ndarray[Any, Any]
) -> RuntimeError:
    """Return an error that names the dead layer because of which int8 failed, or the same error.

    Args:
        error: what the converter or LiteRT said, which numbers operations of the file.
        model: as in :func:`dead_layers`.
        images: the representative images.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, name="logits")])
        >>> explain_dead_layers(RuntimeError("Node 7"), net, np.ones([4, 2], "float32"))
        RuntimeError('Node 7')
    """
    names = dead_layers(model, images)
    if not names:
        return error
    # The layers after the first one follow from it.
    return RuntimeError(
        f'int8 needs a range of values for each layer, but all outputs of the layer "{names[0]}" '
        f"are 0 on all {len(images)} representative images; train the network again, or export it "
        "without quantization."
    )
