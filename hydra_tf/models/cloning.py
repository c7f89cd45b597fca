"""Copies of functional and Sequential Keras models, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras

from hydra_tf.core.keras_models import all_layers, inner_layers, is_graph
from hydra_tf.core.layer_copies import copy_layer, copy_state
from hydra_tf.layers.masked import MaskedKernel
from hydra_tf.layers.masked_layer import MaskedLayer


def require_cloneable(model: keras.Model) -> None:
    """Check that a model can be cloned layer by layer.

    Raises:
        TypeError: for something that is not a Keras model, or a subclassed model.
        ValueError: for a model that is not built, or has a Lambda layer.

    Example:
        >>> require_cloneable(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]))
    """
    require_copyable(model)
    if not is_graph(model):
        raise TypeError(
            f"{type(model).__name__} is a subclassed model, whose layers cannot be replaced; "
            "build it with the functional API, or pass the functional model in it."
        )


def require_copyable(model: keras.Model) -> None:
    """Check that something is a built model that can be copied and loaded.

    Raises:
        TypeError: for something that is not a Keras model.
        ValueError: for a model that is not built, or has a Lambda layer.

    Example:
        >>> require_copyable(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]))
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model, not {type(model).__name__}.")
    if not model.built:
        raise ValueError("The model is not built yet; call it on a batch or add an Input.")
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f'The layer "{layer.name}" is a Lambda, which cannot be copied or loaded safely; '
                "write it with keras.ops, or as a registered custom layer."
            )


def clone_layers(
    model: keras.Model, replace: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Return a copy of a model in which each layer is replaced, with the same weights.

    Nested models and shared layers stay nested and shared.

    Args:
        model: a built functional or Sequential model.
        replace: maps a layer to a new layer, which may add or remove masks.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> clone_layers(net, copy_built).layers[0] is net.layers[0]
        False
    """
    clones: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}
    nested: dict[int, keras.Model] = {}

    def clone_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        # Keras before 3.14 clones only the first level of nested models layer by layer.
        if is_graph(layer):
            if id(layer) not in nested:
                nested[id(layer)] = keras.models.clone_model(
                    layer, clone_function=clone_layer, recursive=True
                )
            return nested[id(layer)]
        if id(layer) not in clones:
            clones[id(layer)] = (layer, replace(layer))
        return clones[id(layer)][1]

    with uncompiled(model):
        clone = keras.models.clone_model(model, clone_function=clone_layer, recursive=True)
    for source, target in clones.values():
        # The layers of a functional model include plain operations such as a + b.
        if isinstance(source, keras.layers.Layer):
            copy_weights(source, target)
    return clone


@contextlib.contextmanager
def uncompiled(model: keras.Model) -> Iterator[None]:
    """Mark a model as not compiled: Keras would also clone losses, and fails on custom ones.

    Args:
        model: a model; the models in it are marked too.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> net.compile("sgd")
        >>> with uncompiled(net):
        ...     net.compiled
        False
    """
    models = (model, *all_layers(model))
    compiled = [layer for layer in models if getattr(layer, "compiled", False)]
    for layer in compiled:
        layer.compiled = False
    try:
        yield
    finally:
        for layer in compiled:
            layer.compiled = True


def copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copy the weights of a layer to its clone, which may add or remove masks.

    Args:
        source: a built layer.
        target: its clone.

    Example:
        >>> one, other = keras.layers.Dense(2), keras.layers.Dense(2)
        >>> one.build([None, 3]), other.build([None, 3])
        (None, None)
        >>> copy_weights(one, other)
    """
    kinds = MaskedKernel | MaskedLayer
    if isinstance(target, kinds) and not isinstance(source, kinds):
        target.read_plain(source)
    elif isinstance(source, kinds) and not isinstance(target, kinds):
        source.write_plain(target)
    elif len(source.weights) == len(target.weights):
        copy_state(source, target)
    else:  # masked layers inside have become plain ones
        for inner, copy in zip(inner_layers(source), inner_layers(target), strict=True):
            copy_weights(inner[1], copy[1])


def copy_built(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a copy of a layer without its weights, built if it masks another layer.

    Args:
        layer: a built layer.

    Example:
        >>> copy_built(keras.layers.Dense(2, name="logits")).name
        'logits'
    """
    copy = copy_layer(layer)
    if isinstance(copy, MaskedLayer):
        copy.build_from_config(layer.get_build_config())
    return copy
