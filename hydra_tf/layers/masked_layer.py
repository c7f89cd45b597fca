"""A wrapper that prunes the kernels of any Keras layer."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hydra_tf.core.layer_copies import copy_state
from hydra_tf.layers.mask_state import MaskState, are_kernels_frozen, no_masks_in_file
from hydra_tf.layers.masked_call import masked_call
from hydra_tf.layers.unsupported_layers import refuse_unsupported
from hydra_tf.sparsity.granularity import GranularitySpec
from hydra_tf.sparsity.kernel_weights import KernelWeight, kernel_weights
from hydra_tf.sparsity.score_init import initial_scores


@dataclass(frozen=True)
class _Kernel:
    """The kernel of a mask, which Keras must not track as a weight of the mask."""

    weight: KernelWeight


@keras.saving.register_keras_serializable(package="hydra_tf")
class WeightMask(MaskState, keras.layers.Layer):
    """Scores and mask of one kernel of the layer inside a :class:`MaskedLayer`.

    Args:
        path: path of the kernel in that layer.
        density: share of the kernel's weights that the mask keeps, in (0, 1].
        granularity: unit that is kept or pruned as one; see :func:`hydra_tf.set_density`.
        selection: arguments of :class:`hydra_tf.sparsity.selection.Selection`.

    Raises:
        ValueError: for a density outside (0, 1], or an unknown granularity.

    Example:
        >>> layer = MaskedLayer(keras.layers.GRU(4, name="gru"))
        >>> layer.build([None, 5, 3])
        >>> mask = layer.masks[1]
        >>> mask.density = 0.5
        >>> mask.label, int(mask.kept())
        ('gru/cell/recurrent_kernel', 24)
    """

    def __init__(
        self,
        path: str,
        density: float = 1.0,
        granularity: GranularitySpec = "element",
        selection: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_mask_options(density, granularity, selection)
        self.weight_path = path
        self._label = path

    def attach(self, weight: KernelWeight, label: str, trainable_scores: bool = True) -> None:
        """Create scores and mask for a kernel.

        Args:
            weight: the kernel.
            label: its name in reports.
            trainable_scores: whether an optimizer may train the scores.
        """
        self._kernel, self._label = _Kernel(weight), label
        self.add_scores_and_mask(trainable_scores)
        self.built = True

    @property
    def kernel(self) -> keras.Variable:
        """The kernel, a weight of another layer."""
        return self._kernel.weight.variable

    @property
    def owner(self) -> keras.layers.Layer:
        """The layer of which the kernel is a weight."""
        return self._kernel.weight.owner

    @property
    def label(self) -> str:
        """Name of the kernel in reports and allocations."""
        return self._label

    @property
    def axes(self) -> str:
        """Meaning of the axes of the kernel."""
        return self._kernel.weight.axes

    @property
    def kernel_dtype(self) -> str:
        """Type of the kernel; the layer casts it."""
        return str(self.kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return path, density and granularity."""
        config: dict[str, Any] = super().get_config()
        return {**config, "path": self.weight_path, **self.mask_options()}


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedLayer(keras.layers.Layer):
    """Prunes kernels of any Keras layer: each has trainable scores and a mask.

    The layer is called unchanged, while each of its kernels has the value ``kernel * mask``.
    ``masks`` has a :class:`WeightMask` for each kernel.

    Args:
        layer: a Keras layer; one with several inputs must be built.
        paths: paths of the kernels to mask (see
            :func:`hydra_tf.sparsity.kernel_weights.kernel_weights`); all of them by default,
            embeddings left out.
        masks: the masks, for a layer that is loaded.

    Raises:
        TypeError: for something that is not a Keras layer.
        ValueError: for a path that is not a kernel, or a layer without kernels, when it is built.

    Example:
        >>> layer = MaskedLayer(keras.layers.LSTM(8, name="lstm"))
        >>> tuple(layer(keras.ops.zeros([2, 5, 4])).shape), [mask.label for mask in layer.masks]
        ((2, 8), ['lstm/cell/kernel', 'lstm/cell/recurrent_kernel'])
    """

    built: bool
    masks_inner_layer = True
    trainable_scores = True  # whether an optimizer may train the scores
    takes_training = False  # whether `call` has the argument `training` in any case

    def __init__(
        self,
        layer: keras.layers.Layer,
        paths: Sequence[str] | None = None,
        masks: Sequence[WeightMask] = (),
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"MaskedLayer wraps a Keras layer, not {layer!r}.")
        # Keras reads from the signature which arguments are tensors, masks, or `training`.
        self.call = types.MethodType(masked_call(layer.call, self.takes_training), self)
        # The layer inside casts inputs and weights; here, weights are read as they are stored.
        kwargs.update(name=kwargs.get("name", layer.name), dtype="float32", autocast=False)
        super().__init__(**{"trainable": layer.trainable, **kwargs})
        self.layer = layer
        self.masks = list(masks)
        self._paths = None if paths is None else list(paths)
        self.supports_masking = layer.supports_masking
        if layer.built and not self._has_missing_kernels():
            self._add_masks()

    def build(self, input_shape: Any = None) -> None:
        """Build the layer inside, then scores and masks.

        Raises:
            ValueError: for a layer with several inputs, whose shapes are not known here.
        """
        if not self.layer.built and _has_build(self.layer):
            parameters = inspect.signature(self.layer.build).parameters.values()
            single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            shapes = [p for p in parameters if p.kind in single and p.default is p.empty]
            if len(shapes) > 1:
                raise ValueError(
                    f'The layer "{self.layer.name}" ({type(self.layer).__name__}) has several '
                    "inputs; build it before it is wrapped, or wrap it as part of a model."
                )
            self.layer.build(input_shape)
        self._call_to_build(input_shape)
        self._add_masks()

    def get_build_config(self) -> dict[str, Any] | None:
        """Return what Keras needs to build the layer inside again."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Build the layer inside as it was, then scores and masks."""
        inner = config.get("layer") or {}
        if not self.layer.built and inner and _has_build(self.layer):
            self.layer.build_from_config(inner)
        self._call_to_build(inner.get("input_shape"), **inner.get("shapes_dict", {}))
        self._add_masks()

    def _call_to_build(self, input_shape: Any = None, **shapes: Any) -> None:
        """Call a layer that makes its weights when it is called, if it was not called yet."""
        if not self._has_missing_kernels():
            return
        dtype = self.layer.compute_dtype
        if input_shape is not None:
            self.layer(keras.KerasTensor(tuple(input_shape), dtype))
        elif shapes:  # by the names of the arguments, with "_shape"
            tensors = {key: keras.KerasTensor(tuple(shape), dtype) for key, shape in shapes.items()}
            self.layer(**{key.removesuffix("_shape"): value for key, value in tensors.items()})

    def _has_missing_kernels(self) -> bool:
        """Return whether kernels to mask do not exist yet."""
        wanted = [mask.weight_path for mask in self.masks] or self._paths
        paths = {weight.path for weight in kernel_weights(self.layer, embeddings=True)}
        return not (paths.issuperset(wanted) if wanted else paths)

    def _add_masks(self) -> None:
        """Create scores and masks for the kernels, once."""
        if self.built:
            return
        wanted = [mask.weight_path for mask in self.masks] or self._paths
        weights = {w.path: w for w in kernel_weights(self.layer, embeddings=True)}
        paths = self.default_paths() if wanted is None else wanted
        if unknown := [path for path in paths if path not in weights]:
            raise ValueError(
                f'The layer "{self.layer.name}" has no kernel {", ".join(unknown)}; it has '
                f"{', '.join(weights) or 'none'}."
            )
        if not self.masks:
            self.masks = [WeightMask(path) for path in paths]
        for mask in self.masks:
            path = mask.weight_path
            single = len(weights) == 1 and path == "kernel"
            label = self.name if single else f"{self.name}/{path}"
            mask.attach(weights[path], label, self.trainable_scores)
            mask.trainable = mask.owner.trainable  # a frozen layer stays frozen
        self.built = True

    def default_paths(self) -> list[str]:
        """Return the paths of the kernels to mask if no paths are given.

        Raises:
            ValueError: if the layer has none.
        """
        paths = [weight.path for weight in kernel_weights(self.layer)]
        if not paths:
            raise ValueError(
                f'The layer "{self.layer.name}" ({type(self.layer).__name__}) has no kernels to '
                "mask; a layer of your own names them with get_prunable_weights()."
            )
        return paths

    def call_masked(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer inside with masked kernels; all arguments are those of that layer."""
        refuse_unsupported(self.layer)  # it may have changed since it was wrapped
        frozen = are_kernels_frozen()
        if frozen and isinstance(self.layer, keras.layers.SpectralNormalization):
            kwargs["training"] = False
        masks = {id(mask.kernel): mask for mask in self.masks}
        variables = self.layer.variables
        # Within a scope of the caller's, the values of all variables are those of that scope.
        values = [
            (v, masks[id(v)].masked_kernel() if id(v) in masks else v.value) for v in variables
        ]
        with keras.StatelessScope(values, collect_losses=True) as scope:
            before = [scope.get_current_value(variable) for variable in variables]
            outputs = self.layer(*args, **kwargs)
            after = [scope.get_current_value(variable) for variable in variables]
        for variable, old, new in zip(variables, before, after, strict=True):
            if new is old:
                continue
            mask = masks.get(id(variable))
            if mask is None:
                variable.assign(new)
            elif not frozen:  # a layer that normalizes its kernel must not change pruned weights
                variable.assign(keras.ops.where(mask.mask, new, variable))
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def read_plain(self, layer: keras.layers.Layer) -> None:
        """Copy the weights of a layer without masks, and initialise the scores.

        Args:
            layer: a built layer of the class of the layer inside.
        """
        copy_state(layer, self.layer)
        for mask in self.masks:
            mask.trainable = mask.owner.trainable
            mask.scores.assign(initial_scores(mask.kernel, fan_in=mask.fan_in))

    def write_plain(self, layer: keras.layers.Layer) -> None:
        """Copy the weights to a layer without masks, with zeros where they are pruned.

        Args:
            layer: a built layer of the class of the layer inside.
        """
        copy_state(self.layer, layer)
        pruned = {id(mask.kernel): mask.pruned_kernel() for mask in self.masks}
        for source, target in zip(self.layer.weights, layer.weights, strict=True):
            if id(source) in pruned:
                target.assign(pruned[id(source)])

    # Keras calls these also for layers without weights of their own.
    def save_own_variables(self, store: Any) -> None:
        """Save the number of masks, by which a file of plain weights is told apart."""
        store["masks"] = np.array(len(self.masks))

    def load_own_variables(self, store: Any) -> None:
        """Check that the file has masks.

        Raises:
            ValueError: for the weights of a layer without masks.
        """
        if "masks" not in store:
            raise ValueError(no_masks_in_file(self.name))

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output specification of the layer inside."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output shape of the layer inside."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask of time steps of the layer inside."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Return the layer inside and its masks."""
        serialize = keras.saving.serialize_keras_object
        config: dict[str, Any] = super().get_config()
        masks = [serialize(mask) for mask in self.masks]
        layer = serialize(self.layer)
        layer.pop("build_config", None)  # it is built by build_from_config
        return {**config, "layer": layer, "paths": self._paths, "masks": masks}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> MaskedLayer:
        """Return the layer that :meth:`get_config` describes, not built."""
        config = dict(config)
        for key in ("layer", "masks"):
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        return cls(**config)


def _has_build(layer: keras.layers.Layer) -> bool:
    """Return whether a layer has a method `build`, or makes its weights when it is called."""
    return type(layer).build is not keras.layers.Layer.build
