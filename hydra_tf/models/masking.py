"""Masks on any functional or Sequential Keras model, and off again."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from absl import logging

from hydra_tf.core.keras_models import all_layers, functional_class
from hydra_tf.layers.masked import MASKED, MaskedKernel
from hydra_tf.sparsity.model import masked_layers, unmasked_kernels
from hydra_tf.sparsity.score_init import initial_scores

Choice = str | Sequence[str] | Callable[[keras.layers.Layer], bool]

_PLAIN = {masked: plain for plain, masked in MASKED.items()}


def _chosen(choice: Choice, model: keras.Model) -> set[int]:
    """Identities of the layers that a choice picks, with all layers of a picked model."""
    found: set[int] = set()
    for layer in model.layers:
        if _picks(choice, layer):
            found |= {id(layer), *map(id, all_layers(layer))}
        elif hasattr(layer, "layers"):
            found |= _chosen(choice, layer)
    return found


def _picks(choice: Choice, layer: keras.layers.Layer) -> bool:
    """Whether a name pattern, a list of them, or a predicate picks the layer."""
    if callable(choice):
        return bool(choice(layer))
    patterns = [choice] if isinstance(choice, str) else choice
    return any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in patterns)


def _check_choice(choice: Choice | None, model: keras.Model, argument: str) -> None:
    """Refuse what is no choice, and a pattern that names no layer: most likely it is misspelt."""
    if choice is None or callable(choice):
        return
    patterns = [choice] if isinstance(choice, str) else choice
    if not (isinstance(patterns, Sequence) and all(isinstance(each, str) for each in patterns)):
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


def _require_graph(model: Any) -> None:
    """Refuse what cannot be cloned layer by layer."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model, not {type(model).__name__}.")
    if not isinstance(model, keras.Sequential | functional_class()):
        raise TypeError(
            f"{type(model).__name__} is a subclassed model, whose layers cannot be replaced; "
            "build it with the functional API, or pass the functional model inside it."
        )
    if not model.built:
        raise ValueError("The model is not built yet; call it on a batch or give it an Input.")
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f'The layer "{layer.name}" is a Lambda, which cannot be copied or loaded safely; '
                "write it with keras.ops, or as a registered layer of your own."
            )


def _clone(
    model: keras.Model, replace: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Clone a model with `replace` applied to each layer, and carry the weights over."""
    pairs: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}

    def clone_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) not in pairs:
            pairs[id(layer)] = (layer, replace(layer))
        return pairs[id(layer)][1]

    with _uncompiled(model):
        clone = keras.models.clone_model(model, clone_function=clone_layer, recursive=True)
    for source, target in pairs.values():
        # A functional model also holds plain operations such as a + b.
        if isinstance(source, keras.layers.Layer):
            _copy_weights(source, target)
    return clone


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Hide from Keras that models are compiled: it clones losses too, and fails on own ones."""
    compiled = [part for part in (model, *all_layers(model)) if getattr(part, "compiled", False)]
    for part in compiled:
        part.compiled = False
    try:
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copy the weights of one layer to its masked, plain or like counterpart."""
    if isinstance(source, MaskedKernel) == isinstance(target, MaskedKernel):
        target.set_weights(source.get_weights())
        # Some layers compute what they use from their weights, as Normalization does.
        store: dict[str, Any] = {}
        source.save_own_variables(store)
        target.load_own_variables(store)
        return
    if isinstance(target, MaskedKernel):
        target.kernel.assign(source.kernel)
        target.scores.assign(initial_scores(source.kernel, fan_in=target.fan_in))
    else:
        # Adding zero turns the -0.0 of pruned negative weights into 0.0, which compresses.
        target.kernel.assign(keras.ops.where(source.mask, source.kernel, 0.0) + 0.0)
    if target.bias is not None:
        target.bias.assign(source.bias)


def mask_model(
    model: keras.Model, include: Choice | None = None, exclude: Choice | None = None
) -> keras.Model:
    """Return a copy of a model whose convolution and dense kernels have scores and masks.

    Weights and outputs are unchanged: every mask keeps everything until
    :func:`hydra_tf.set_density`, and the scores start as ``sqrt(6/fan_in) * w / max|w|``
    (arXiv 2002.10509, section 3.2). Nested models and shared layers stay nested and
    shared; layers that are masked already keep their masks. Layers with weights that
    cannot be masked are left alone and listed in the log and in
    :func:`hydra_tf.sparsity.report`. The copy is not compiled.

    Args:
        model: a built functional or Sequential model.
        include: only these layers, as a name pattern (``"conv*"``), a list of them, or a
            predicate on layers; all of them when left out. A nested model that is picked
            stands for all its layers.
        exclude: not these layers, given likewise.

    Returns:
        A new Keras model.

    Raises:
        TypeError: for a subclassed model, or a choice of another type.
        ValueError: for a model that is not built, has nothing to mask or has a Lambda layer,
            and for a pattern that matches no layer.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="logits")])
        >>> mask_model(net).layers[0].__class__.__name__
        'MaskedDense'
    """
    _require_graph(model)
    _check_choice(include, model, "include")
    _check_choice(exclude, model, "exclude")

    wanted = (
        {id(layer) for layer in all_layers(model)} if include is None else _chosen(include, model)
    )
    wanted -= set() if exclude is None else _chosen(exclude, model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) not in wanted:
            return type(layer).from_config(layer.get_config())
        return MASKED.get(type(layer), type(layer)).from_config(layer.get_config())

    masked = _clone(model, replace)
    if not masked_layers(masked):
        kinds = ", ".join(sorted(kind.__name__ for kind in MASKED))
        raise ValueError(f"The model has nothing to mask: no chosen layer is one of {kinds}.")
    left = [
        f"{layer.name} ({type(layer).__name__})"
        for layer in all_layers(masked, in_wrappers=False)
        if unmasked_kernels(layer)
    ]
    if left:
        logging.info("hydra_tf: layers left without a mask: %s.", ", ".join(left))
    return masked


def strip_masks(model: keras.Model) -> keras.Model:
    """Return a copy of plain Keras layers, with zeros where weights were pruned.

    Args:
        model: a masked model (a plain one gives a plain copy), or a
            :class:`hydra_tf.RobustModel`.

    Returns:
        A new Keras model with the same outputs and no trace of this library.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="logits")])
        >>> strip_masks(mask_model(net)).layers[0].__class__.__name__
        'Dense'
    """
    model = getattr(model, "net", model)
    _require_graph(model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, MaskedKernel):
            del config["density"], config["granularity"]
        return _PLAIN.get(type(layer), type(layer)).from_config(config)

    return _clone(model, replace)


def synchronize_batchnorm(model: keras.Model) -> keras.Model:
    """Return a copy of a model whose BatchNorm takes its statistics over all replicas.

    Matters under a tf.distribute strategy only, where each replica sees a part of the batch.

    Args:
        model: a built functional or Sequential model.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.BatchNormalization()])
        >>> synchronize_batchnorm(net).layers[0].synchronized
        True
    """
    _require_graph(model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        return type(layer).from_config(config)

    return _clone(model, replace)
