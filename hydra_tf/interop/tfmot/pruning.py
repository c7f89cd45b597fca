"""TFMOT's functions for magnitude pruning, for Keras 3 models."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import keras

from hydra_tf.core.keras_models import is_graph
from hydra_tf.core.layer_copies import copy_layer
from hydra_tf.interop.tfmot.importing import import_tfmot
from hydra_tf.interop.tfmot.pruning_wrapper import PruneLowMagnitude
from hydra_tf.interop.tfmot.schedules import PruningSchedule, require_schedule
from hydra_tf.interop.tfmot.weight_groups import WeightGroups
from hydra_tf.layers.masked import MaskedKernel
from hydra_tf.layers.unsupported_layers import refuse_unsupported
from hydra_tf.models.cloning import clone_layers, copy_built, require_cloneable
from hydra_tf.models.masking import strip_masks
from hydra_tf.sparsity.kernel_weights import kernel_weights
from hydra_tf.sparsity.model import masked_layers


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule | None = None,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    **kwargs: Any,
) -> Any:
    """Return a layer or model whose small weights are pruned while it is trained.

    The function of TFMOT with this name, for Keras 3. Arguments and meaning are TFMOT's, with these
    differences: a model is copied with its weights, not changed; layers that TFMOT does not know
    are pruned too; and of weights of equal magnitude only as many are kept as the schedule says.
    Train the result with the callback :class:`UpdatePruningStep`, and remove the wrappers with
    :func:`strip_pruning`.

    Args:
        to_prune: a Keras layer, a list of layers, or a functional or Sequential model.
        pruning_schedule: a `PruningSchedule` of TFMOT, or a callable like it;
            ``ConstantSparsity(0.5, 0)`` by default.
        block_size: height and width of the blocks of a matrix that are pruned as one.
        block_pooling_type: ``"AVG"`` or ``"MAX"``: blocks are ranked by the mean or the largest
            magnitude of their weights.
        pruning_policy: an object with the methods ``allow_pruning(layer)`` and
            ``ensure_model_supports_pruning(model)``, as TFMOT's `PruningPolicy`.
        sparsity_m_by_n: (m, n), to prune m of every n consecutive inputs of an output once, in the
            first step, whatever the schedule says.
        **kwargs: further arguments of the wrapper of a single layer, such as ``name``.

    Returns:
        What was passed, with layers in :class:`PruneLowMagnitude`; it is not compiled.

    Raises:
        TypeError: for something that cannot be pruned, or that is not a schedule.
        ValueError: for groups of weights that are out of range or that a kernel does not have, a
            policy for Keras 2, a layer that cannot be masked, or an unknown pooling type.

    Example:
        >>> from hydra_tf.interop import tfmot
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="dense")])
        >>> pruned = tfmot.prune_low_magnitude(net, tfmot.sparsity.keras.ConstantSparsity(0.5, 0))
        >>> pruned.layers[0].name
        'prune_low_magnitude_dense'
    """
    groups = WeightGroups(block_size, block_pooling_type, sparsity_m_by_n)
    _require_policy(pruning_policy)
    if pruning_schedule is None:
        pruning_schedule = import_tfmot().sparsity.keras.ConstantSparsity(0.5, 0)
    require_schedule(pruning_schedule)
    if kwargs and (isinstance(to_prune, list | keras.Model)):
        raise TypeError(
            f"prune_low_magnitude does not know the arguments {', '.join(kwargs)} for a model or a "
            "list of layers."
        )
    if isinstance(to_prune, list):
        if not all(isinstance(layer, keras.layers.Layer) for layer in to_prune):
            raise TypeError(f"prune_low_magnitude takes a list of Keras layers, not {to_prune!r}.")
        return [_wrapped(layer, pruning_schedule, groups) for layer in to_prune]
    if isinstance(to_prune, keras.Model):
        return _pruned_model(to_prune, pruning_schedule, groups, pruning_policy)
    if isinstance(to_prune, keras.layers.Layer):
        return _wrapped(to_prune, pruning_schedule, groups, **kwargs)
    raise TypeError(
        "prune_low_magnitude takes a Keras 3 layer, a list of layers, or a functional or "
        f"Sequential model, not {type(to_prune).__module__}.{type(to_prune).__name__}."
    )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Return a copy of a model without pruning wrappers, with zeros where weights are pruned.

    Args:
        model: a functional or Sequential model.

    Raises:
        TypeError: for something that is not a Keras model, or a subclassed one.

    Example:
        >>> from hydra_tf.interop import tfmot
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="dense")])
        >>> strip_pruning(tfmot.prune_low_magnitude(net)).layers[0].name
        'dense'
    """
    return strip_masks(model)


def prune_scope() -> AbstractContextManager[Any]:
    """Return a scope in which pruned models can be loaded; with this library, any place is one.

    Example:
        >>> with prune_scope():
        ...     pass
    """
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


def _pruned_model(
    model: keras.Model, schedule: PruningSchedule, groups: WeightGroups, policy: Any
) -> keras.Model:
    """Return a copy of a model with its layers wrapped."""
    if policy is not None:
        policy.ensure_model_supports_pruning(model)

    def allowed(layer: Any) -> bool:
        return policy is None or bool(policy.allow_pruning(layer))

    if isinstance(model, keras.Sequential) and not model.built:
        layers = [copy_layer(layer) for layer in model.layers]
        wrapped = [
            _wrapped(layer, schedule, groups) if allowed(layer) else layer for layer in layers
        ]
        return keras.Sequential(wrapped, name=model.name)
    require_cloneable(model)

    def replace(layer: Any) -> Any:
        done = isinstance(layer, PruneLowMagnitude) or not isinstance(layer, keras.layers.Layer)
        if done or not allowed(layer):
            return copy_built(layer)
        copy = _wrapped(copy_layer(layer), schedule, groups, built=layer)
        if isinstance(copy, PruneLowMagnitude):
            copy.build_from_config({"layer": layer.get_build_config()})
        return copy

    return clone_layers(model, replace)


def _wrapped(
    layer: Any,
    pruning_schedule: PruningSchedule,
    groups: WeightGroups,
    built: keras.layers.Layer | None = None,
    **kwargs: Any,
) -> Any:
    """Return a layer in a wrapper, or the layer itself if it has nothing to prune.

    Args:
        layer: a layer.
        pruning_schedule: a pruning schedule.
        groups: the weights that are pruned as one.
        built: a built layer with the same weights; `layer` itself by default.
        **kwargs: further arguments of the wrapper.
    """
    built = layer if built is None else built
    if isinstance(layer, PruneLowMagnitude | keras.layers.InputLayer) or is_graph(layer):
        return layer
    if built.built and not kernel_weights(built, embeddings=True):
        return layer
    if masked_layers(layer) or isinstance(layer, MaskedKernel):
        raise ValueError(
            f'The layer "{layer.name}" has a mask already; call hydra_tf.strip_masks on the model '
            "before prune_low_magnitude."
        )
    refuse_unsupported(layer)
    return PruneLowMagnitude(layer, pruning_schedule, **groups.config(), **kwargs)


def _require_policy(policy: Any) -> None:
    """Refuse a policy that would silently prune nothing."""
    if policy is None:
        return
    for name in ("allow_pruning", "ensure_model_supports_pruning"):
        if not callable(getattr(policy, name, None)):
            raise TypeError(
                "pruning_policy must have the methods allow_pruning(layer) and "
                f"ensure_model_supports_pruning(model), as TFMOT's PruningPolicy, not {policy!r}."
            )
    if type(policy).__module__.startswith("tensorflow_model_optimization"):
        raise ValueError(
            f"TFMOT's {type(policy).__name__} knows the layers of Keras 2 only and would prune "
            "nothing; write a PruningPolicy whose allow_pruning checks Keras 3 layers."
        )
