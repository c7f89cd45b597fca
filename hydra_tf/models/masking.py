"""Copies of functional and Sequential Keras models with masks, and without them."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf
from absl import logging

from hydra_tf.core.keras_models import all_layers, functional_class
from hydra_tf.core.layer_copies import copy_layer
from hydra_tf.layers.masked import MASKED, MaskedKernel
from hydra_tf.sparsity.model import masked_layers, unmasked_kernels
from hydra_tf.sparsity.score_init import initial_scores

Choice = str | Sequence[str] | Callable[[keras.layers.Layer], bool]

_PLAIN = {masked: plain for plain, masked in MASKED.items()}


def _selected_ids(choice: Choice, model: keras.Model) -> set[int]:
    """Return the ids of the layers that a choice selects, and of all layers in selected models."""
    selected: set[int] = set()
    for layer in model.layers:
        if _matches(choice, layer):
            selected |= {id(layer), *map(id, all_layers(layer))}
        elif hasattr(layer, "layers"):
            selected |= _selected_ids(choice, layer)
    return selected


def _matches(choice: Choice, layer: keras.layers.Layer) -> bool:
    """Return whether a layer matches a name pattern, one of a list of them, or a predicate."""
    if callable(choice):
        return bool(choice(layer))
    patterns = [choice] if isinstance(choice, str) else choice
    return any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in patterns)


def _check_choice(choice: Choice | None, model: keras.Model, argument: str) -> None:
    """Check the type of a choice, and that each of its patterns matches a layer."""
    if choice is None or callable(choice):
        return
    patterns = [choice] if isinstance(choice, str) else choice
    if not (
        isinstance(patterns, Sequence) and all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise TypeError(
            f"{argument} must be a name pattern, a list of them or a predicate on layers, not "
            f"{choice!r}."
        )
    names = [layer.name for layer in all_layers(model)]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"{argument}={pattern!r} matches no layer; the layers are {', '.join(names)}."
            )


def _require_cloneable(model: keras.Model) -> None:
    """Check that a model can be cloned layer by layer."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model, not {type(model).__name__}.")
    if not isinstance(model, keras.Sequential | functional_class()):
        raise TypeError(
            f"{type(model).__name__} is a subclassed model, whose layers cannot be replaced; "
            "build it with the functional API, or pass the functional model in it."
        )
    if not model.built:
        raise ValueError("The model is not built yet; call it on a batch or add an Input.")
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f'The layer "{layer.name}" is a Lambda, which cannot be copied or loaded safely; '
                "write it with keras.ops, or as a registered custom layer."
            )


def _clone(
    model: keras.Model, replace: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Clone a model with `replace` applied to each layer, and copy the weights."""
    clones: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}

    nested: dict[int, keras.Model] = {}

    def clone_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        # Keras before 3.14 clones only the first level of nested models layer by layer.
        if isinstance(layer, keras.Sequential | functional_class()):
            if id(layer) not in nested:
                nested[id(layer)] = keras.models.clone_model(
                    layer, clone_function=clone_layer, recursive=True
                )
            return nested[id(layer)]
        if id(layer) not in clones:
            clones[id(layer)] = (layer, replace(layer))
        return clones[id(layer)][1]

    with _uncompiled(model):
        clone = keras.models.clone_model(model, clone_function=clone_layer, recursive=True)
    for source, target in clones.values():
        # The layers of a functional model include plain operations such as a + b.
        if isinstance(source, keras.layers.Layer):
            _copy_weights(source, target)
    return clone


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Mark models as not compiled: Keras would also clone losses, and fails on custom ones."""
    models = (model, *all_layers(model))
    compiled = [layer for layer in models if getattr(layer, "compiled", False)]
    for layer in compiled:
        layer.compiled = False
    try:
        yield
    finally:
        for layer in compiled:
            layer.compiled = True


def _copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copy the weights of a layer to its clone, which may add or remove a mask."""
    if isinstance(source, MaskedKernel) == isinstance(target, MaskedKernel):
        target.set_weights(source.get_weights())
        # Some layers, such as Normalization, derive values from their weights on loading.
        store: dict[str, tf.Tensor] = {}
        source.save_own_variables(store)
        target.load_own_variables(store)
        return
    if isinstance(target, MaskedKernel):
        target.kernel.assign(source.kernel)
        target.scores.assign(initial_scores(source.kernel, fan_in=target.fan_in))
    else:
        # Adding zero turns the -0.0 of pruned negative weights into 0.0, which compresses better.
        target.kernel.assign(keras.ops.where(source.mask, source.kernel, 0.0) + 0.0)
    if target.bias is not None:
        target.bias.assign(source.bias)


def mask_model(
    model: keras.Model, include: Choice | None = None, exclude: Choice | None = None
) -> keras.Model:
    """Return a copy of a model whose convolution and dense kernels have scores and masks.

    Weights and outputs are unchanged: masks keep all weights until
    :func:`hydra_tf.set_density`, and the scores start as ``sqrt(6/fan_in) * w / max|w|``
    (arXiv 2002.10509, section 3.2). Nested models and shared layers stay nested and
    shared; layers that are already masked keep their masks. Layers with weights that
    cannot be masked are unchanged, and are listed in the log and in
    :func:`hydra_tf.sparsity.report`. The copy is not compiled.

    Args:
        model: a built functional or Sequential model.
        include: mask only these layers: a name pattern (``"conv*"``), a list of them, or a
            predicate on layers; all layers by default. A nested model that is selected
            selects all its layers.
        exclude: do not mask these layers, in the same form.

    Returns:
        A new Keras model.

    Raises:
        TypeError: for a subclassed model, or a choice of an invalid type.
        ValueError: for a model that is not built, has no layers to mask, or has a Lambda layer or
            one that cannot be copied, and for a pattern that matches no layer.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="logits")])
        >>> mask_model(net).layers[0].__class__.__name__
        'MaskedDense'
    """
    _require_cloneable(model)
    _check_choice(include, model, "include")
    _check_choice(exclude, model, "exclude")

    selected = {id(layer) for layer in all_layers(model)}
    if include is not None:
        selected = _selected_ids(include, model)
    if exclude is not None:
        selected -= _selected_ids(exclude, model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        return copy_layer(layer, MASKED.get(type(layer)) if id(layer) in selected else None)

    masked = _clone(model, replace)
    if not masked_layers(masked):
        kinds = ", ".join(sorted(kind.__name__ for kind in MASKED))
        raise ValueError(f"The model has nothing to mask: no selected layer is one of {kinds}.")
    unmasked = [
        f"{layer.name} ({type(layer).__name__})"
        for layer in all_layers(masked, in_wrappers=False)
        if unmasked_kernels(layer)
    ]
    if unmasked:
        logging.info("hydra_tf: layers without a mask: %s.", ", ".join(unmasked))
    return masked


def strip_masks(model: keras.Model) -> keras.Model:
    """Return a copy with plain Keras layers, in which pruned weights are zero.

    Args:
        model: a masked model (a plain one gives a plain copy), or a
            :class:`hydra_tf.RobustModel`.

    Returns:
        A new Keras model with the same outputs and no layers of this library.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="logits")])
        >>> strip_masks(mask_model(net)).layers[0].__class__.__name__
        'Dense'
    """
    model = getattr(model, "net", model)
    _require_cloneable(model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        drop = ("density", "granularity") if isinstance(layer, MaskedKernel) else ()
        return copy_layer(layer, _PLAIN.get(type(layer)), drop)

    return _clone(model, replace)


def synchronize_batchnorm(model: keras.Model) -> keras.Model:
    """Return a copy of a model whose BatchNorm computes its statistics over all replicas.

    This matters only under a tf.distribute strategy, where each replica has a slice of the batch.

    Args:
        model: a built functional or Sequential model.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.BatchNormalization()])
        >>> synchronize_batchnorm(net).layers[0].synchronized
        True
    """
    _require_cloneable(model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return copy_layer(layer, synchronized=True)
        return copy_layer(layer)

    return _clone(model, replace)
