"""Layers that are made again from their configs, and the causes of errors in that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra_tf.core.keras_models import all_layers

_REGISTER = "decorate it with keras.saving.register_keras_serializable"
_LONGEST = 200  # characters of a message of Keras, which may contain a whole config


def copy_layer(layer: Any, kind: Any = None, drop: Sequence[str] = (), **changes: Any) -> Any:
    """Return a new layer with the config of a layer, without its weights.

    Args:
        layer: a Keras layer.
        kind: class of the new layer; that of the old one when left out.
        drop: entries of the config that the new layer does not have.
        **changes: entries of the config with new values.

    Raises:
        ValueError: with the name of the layer and the cause, when its class has no
            ``get_config``, or uses a function or class that is not registered with Keras.

    Example:
        >>> import keras
        >>> copy_layer(keras.layers.Dense(2, name="logits"), units=3).units
        3
    """
    try:
        config = {k: v for k, v in layer.get_config().items() if k not in drop}
        return (kind or type(layer)).from_config({**config, **changes})
    # A layer of the user's may raise anything.
    except Exception as error:
        raise ValueError(
            f'The layer "{layer.name}" ({type(layer).__name__}) cannot be copied: {cause(error)}.'
        ) from error


def copy_state(source: Any, target: Any) -> None:
    """Copy weights, what layers derive from them, and which layers are frozen.

    Layers inside are copied one by one: `Normalization`, for example, derives tensors from its
    weights when they are loaded.

    Args:
        source: a built Keras layer.
        target: a built copy of it.

    Example:
        >>> import keras
        >>> one, other = keras.layers.Dense(2), keras.layers.Dense(2)
        >>> one.build([None, 3]), other.build([None, 3])
        (None, None)
        >>> copy_state(one, other)
        >>> bool((one.kernel.numpy() == other.kernel.numpy()).all())
        True
    """
    target.set_weights(source.get_weights())
    layers = [source, *all_layers(source)]
    copies = [target, *all_layers(target)]
    for layer, copy in zip(layers, copies, strict=True):
        if copy.trainable != layer.trainable:
            copy.trainable = layer.trainable
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        copy.load_own_variables(store)


def cause(error: BaseException) -> str:
    """Return a phrase that says why Keras could not make or load a layer, without a full stop.

    Args:
        error: what Keras raised; its message may be very long.

    Example:
        >>> cause(TypeError("Could not locate function 'mish2'. Make sure custom classes ..."))
        'it uses the function "mish2", which is not registered; decorate it with ...'
    """
    # Keras quotes the error of a layer after the config of the layer.
    text = str(error).rpartition("Exception encountered: ")[2]
    missing = re.search(r"Could not locate (\w+) '([^']*)'", text)
    if missing:
        return f'it uses the {missing[1]} "{missing[2]}", which is not registered; {_REGISTER}'
    if isinstance(error, NotImplementedError) and "get_config" in text:
        return (
            "its class has no get_config; return the arguments of its __init__ from get_config, "
            f"and {_REGISTER}"
        )
    if isinstance(error, RecursionError):
        return "its config is nested too deeply"
    if isinstance(error, KeyError):
        return f"its config has no entry {text}"
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return line[:_LONGEST].rstrip(". ") or type(error).__name__
