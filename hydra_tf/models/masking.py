"""Copies of functional and Sequential Keras models with masks, and without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from hydra_tf.core.keras_models import all_layers, is_graph
from hydra_tf.core.keras_private import arguments_of_calls
from hydra_tf.core.layer_copies import copy_layer
from hydra_tf.layers.mask_state import MASK_OPTIONS
from hydra_tf.layers.masked import MASKED, MaskedKernel
from hydra_tf.layers.masked_layer import MaskedLayer
from hydra_tf.layers.unsupported_layers import refuse_unsupported
from hydra_tf.models.cloning import (
    clone_layers,
    copy_built,
    copy_weights,
    require_cloneable,
    require_copyable,
    uncompiled,
)
from hydra_tf.models.layer_choices import Choice, check_choice, chosen_kernels, selected_ids
from hydra_tf.sparsity.kernel_weights import kernel_weights
from hydra_tf.sparsity.model import kernels, masked_layers, warn_of_unmasked

_PLAIN = {masked: plain for plain, masked in MASKED.items()}


def _refuse_shared(model: keras.Model) -> None:
    """Check that no weight would be masked in one place and used without a mask in another."""
    owners: dict[int, keras.layers.Layer] = {}
    nested = all_layers(model, in_wrappers=False)
    graphs = [layer for layer in (model, *nested) if is_graph(layer)]
    for graph in graphs:
        for operation in getattr(graph, "operations", graph.layers):
            for argument in keras.tree.flatten(arguments_of_calls(operation)):
                if isinstance(argument, keras.Variable):
                    raise ValueError(
                        f'The operation "{operation.name}" uses the variable "{argument.path}" '
                        "directly, so that a copy would share it; make it a weight of a layer."
                    )
            if not isinstance(operation, keras.layers.Layer) or is_graph(operation):
                continue
            for inner in (operation, *all_layers(operation)):
                if owners.setdefault(id(inner), operation) is not operation and inner.weights:
                    raise ValueError(
                        f'The layer "{inner.name}" is used by "{owners[id(inner)].name}" and by '
                        f'"{operation.name}", of which a copy would have a layer each; mask a '
                        "model that uses it once, or calls one layer twice."
                    )


class _Masking:
    """Chooses masks for the layers of a model.

    Args:
        model: the model.
        include: as in :func:`mask_model`.
        exclude: as in :func:`mask_model`.
    """

    def __init__(self, model: keras.Model, include: Choice | None, exclude: Choice | None) -> None:
        _refuse_shared(model)
        labels = [kernel.label for kernel in kernels(model, embeddings=True)]
        check_choice(include, model, "include", labels)
        check_choice(exclude, model, "exclude", labels)
        every = {id(model), *map(id, all_layers(model))}
        self._include, self._exclude = include, exclude
        self.wrapped: list[str] = []
        self._included = every if include is None else selected_ids(include, model)
        self._excluded = set() if exclude is None else selected_ids(exclude, model)

    def replace(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Return a copy of a layer, masked as chosen."""
        masked = MASKED.get(type(layer))
        if isinstance(layer, MaskedKernel | MaskedLayer):
            return copy_built(layer)
        if masked is not None:
            chosen = id(layer) in self._included - self._excluded
            return copy_layer(layer, masked if chosen else None)
        if not isinstance(layer, keras.layers.Layer):  # an operation such as a + b
            return copy_layer(layer)
        if id(layer) in self._included - self._excluded:
            refuse_unsupported(layer)
        if paths := self._paths(layer):
            self.wrapped.append(f"{layer.name} ({type(layer).__name__})")
            copy = MaskedLayer(copy_layer(layer), paths)
            copy.build_from_config({"layer": layer.get_build_config()})
            return copy
        return copy_layer(layer)

    def _paths(self, layer: keras.layers.Layer) -> list[str]:
        """Return the paths of the kernels of a layer that are chosen and not masked yet."""
        done = {id(mask.kernel) for mask in masked_layers(layer)}
        # Embeddings are left alone unless something was asked for.
        found = kernel_weights(layer, embeddings=self._include is not None)
        left = [kernel for kernel in found if id(kernel.variable) not in done]
        included = {kernel.path for kernel in left}
        if self._include is not None:
            included = chosen_kernels(left, layer.name, self._include, self._included)
        excluded: set[str] = set()
        if self._exclude is not None:
            excluded = chosen_kernels(left, layer.name, self._exclude, self._excluded)
        return [kernel.path for kernel in left if kernel.path in included - excluded]


def mask_model(
    model: keras.Model,
    include: Choice | None = None,
    exclude: Choice | None = None,
    *,
    keep_zeros: bool = False,
) -> keras.Model:
    """Return a copy of a model whose kernels have scores and masks.

    Weights and outputs are unchanged: masks keep all weights until
    :func:`hydra_tf.set_density`, and the scores start as ``sqrt(6/fan_in) * w / max|w|``
    (arXiv 2002.10509, section 3.2). Dense layers and convolutions are replaced by masked classes;
    any other layer with kernels (recurrent layers, attention, transposed and separable
    convolutions, wrappers, layers of your own) is wrapped in a
    :class:`hydra_tf.layers.MaskedLayer`. Which weights are kernels is defined in
    :mod:`hydra_tf.sparsity.kernel_weights`. Nested models and shared layers stay nested and
    shared; layers that are already masked keep their masks. The copy is not compiled. If masks
    reach less than 99% of the kernel weights, a warning names the layers without.

    Args:
        model: a built model; a subclassed one is wrapped as a whole, in a functional model.
        include: mask only these layers: a name pattern (``"conv*"``, or ``"lstm/cell/kernel"`` for
            one kernel of a layer), a list of them, or a predicate on layers; by default all
            layers but embeddings. A model or layer that is selected selects all layers inside.
        exclude: do not mask these layers, in the same form.
        keep_zeros: whether weights that are 0 stay pruned: each mask keeps the others.

    Returns:
        A new Keras model.

    Raises:
        TypeError: for something that is not a Keras model, or a choice of an invalid type.
        ValueError: for a model that is not built, has no layers to mask, or has a Lambda layer,
            a quantized one, or one that cannot be copied, and for a pattern that matches no layer.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="logits")])
        >>> mask_model(net).layers[0].__class__.__name__
        'MaskedDense'
    """
    require_copyable(model)
    masking = _Masking(model, include, exclude)
    copied = clone_layers if is_graph(model) else _replace_whole
    masked = copied(model, masking.replace)
    if not masked_layers(masked):
        raise ValueError("The model has nothing to mask: no selected layer has a kernel.")
    if keep_zeros:
        for layer in masked_layers(masked):
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            if layer.density == 1.0:  # a mask that the model had already is kept
                layer.density = max(1, (kernel != 0).sum()) / kernel.size
    if masking.wrapped:
        logging.warning(
            "hydra_tf: these layers are masked by a wrapper, hydra_tf.layers.MaskedLayer, which "
            "has their names but no bound rule; its attribute `layer` is the layer itself: %s.",
            ", ".join(masking.wrapped),
        )
    warn_of_unmasked(masked)
    return masked


def _replace_whole(
    model: keras.Model, replace: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Return a functional model of one layer, `replace` applied to a subclassed model."""
    shape = (model.get_build_config() or {}).get("input_shape")
    single = isinstance(shape, tuple | list) and all(isinstance(n, int | None) for n in shape)
    if shape is None or not single:
        raise ValueError(
            f"{type(model).__name__} is a subclassed model with several inputs, or was not called "
            "yet; call it on a batch of one array."
        )
    # Numbers of tokens would be rounded in half precision.
    tokens = any(isinstance(layer, keras.layers.Embedding) for layer in all_layers(model))
    dtype = "int32" if tokens else model.input_dtype
    images = keras.Input(batch_shape=(None, *shape[1:]), dtype=dtype)
    with uncompiled(model):
        layer = replace(model)
    copy = keras.Model(images, layer(images), name=model.name)
    copy_weights(model, layer)
    return copy


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
    require_cloneable(model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, MaskedLayer):
            return copy_layer(layer.layer)
        if isinstance(layer, MaskedKernel):
            return copy_layer(layer, _PLAIN.get(type(layer)), MASK_OPTIONS)
        if isinstance(layer, keras.layers.Layer) and masked_layers(layer):
            return _copy_stripped(layer)
        return copy_layer(layer)

    return clone_layers(model, replace)


def _copy_stripped(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a copy of a layer whose config contains masked layers, with plain ones in it."""
    plain = {f"hydra_tf>{masked.__name__}": kind.__name__ for masked, kind in _PLAIN.items()}

    def stripped(entry: Any) -> Any:
        if isinstance(entry, list):
            return [stripped(item) for item in entry]
        if not isinstance(entry, dict):
            return entry
        entry = {key: stripped(value) for key, value in entry.items()}
        name = plain.get(str(entry.get("registered_name")))
        if name is None:
            return entry
        config = {key: v for key, v in entry["config"].items() if key not in MASK_OPTIONS}
        changes = {"module": "keras.layers", "class_name": name, "registered_name": None}
        return {**entry, **changes, "config": config}

    config = stripped(keras.saving.serialize_keras_object(layer))
    copy = keras.saving.deserialize_keras_object(config)
    if masked_layers(copy):
        raise ValueError(
            f'The layer "{layer.name}" ({type(layer).__name__}) makes masked layers itself, which '
            "cannot be replaced; let it make plain ones, and mask them with mask_model."
        )
    return copy


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
    require_cloneable(model)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_built(layer)
        for inner in (copy, *all_layers(copy)):
            if isinstance(inner, keras.layers.BatchNormalization):
                inner.synchronized = True
        return copy

    return clone_layers(model, replace)
