"""The state of a mask: scores, mask and density of one kernel.

The mask is state, and so is the number of weights that it keeps: :meth:`MaskState.refresh_mask`
chooses as many again from the scores, once per optimizer step while scores are trained, and the
forward pass only reads the mask. If groups of weights of all layers compete for one budget, of
which whole groups may leave some, ``joint_budget`` is this budget; otherwise it is 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.sparsity.granularity import (
    GRANULARITIES,
    GranularitySpec,
    default_axes,
    granularity_name,
)
from hydra_tf.sparsity.kernel_weights import fan_in_of
from hydra_tf.sparsity.model import MaskedLike
from hydra_tf.sparsity.score_init import initial_scores
from hydra_tf.sparsity.selection import Selection
from hydra_tf.sparsity.topk import count_kept, kept_count, masked_kernel

# Type checkers see the mixin as the Keras layer that it is mixed into.
_Base: Any = keras.layers.Layer if TYPE_CHECKING else object

MASK_OPTIONS = ("density", "granularity", "selection")  # entries of configs of masked layers

_BUDGET = "joint_budget"  # key in files; those of weights are numbers
_computed: ContextVar[Mapping[int, tf.Tensor]] = ContextVar(
    "hydra_tf_kernels", default=MappingProxyType({})
)


@contextlib.contextmanager
def kernels_computed_once(layers: Iterable[MaskedLike]) -> Iterator[None]:
    """Compute each masked kernel once in this context, instead of in every call.

    An attack of ten steps calls the network eleven times with the same weights. Gradients are
    the same, provided the context is opened inside that of the tape.

    Args:
        layers: masked layers, which must be built.

    Example:
        >>> from hydra_tf.layers import MaskedDense
        >>> layer = MaskedDense(3)
        >>> layer.build((None, 2))
        >>> with kernels_computed_once([layer]):
        ...     layer.masked_kernel() is layer.masked_kernel()
        True
    """
    token = _computed.set({id(layer): layer.masked_kernel() for layer in layers})
    try:
        yield
    finally:
        _computed.reset(token)


_frozen: ContextVar[bool] = ContextVar("hydra_tf_kernels_frozen", default=False)


@contextlib.contextmanager
def kernels_frozen(frozen: bool = True) -> Iterator[None]:
    """Keep layers in this context from changing their own kernels, as the prune phase requires.

    SpectralNormalization divides its kernel by its norm at every call in training mode.

    Args:
        frozen: False for a context without an effect.

    Example:
        >>> with kernels_frozen():
        ...     are_kernels_frozen()
        True
    """
    token = _frozen.set(frozen)
    try:
        yield
    finally:
        _frozen.reset(token)


def are_kernels_frozen() -> bool:
    """Return whether a context of :func:`kernels_frozen` is open."""
    return _frozen.get()


class MaskState(_Base):
    """Mixin for Keras layers with a ``kernel`` that is pruned by trainable scores.

    Example:
        >>> from hydra_tf.layers import MaskedDense
        >>> layer = MaskedDense(10)  # has this mixin
        >>> layer.build((None, 20))
        >>> layer.density = 0.05
        >>> int(layer.kept()), layer.axes
        (10, 'io')
    """

    kernel: keras.Variable
    name: str

    def set_mask_options(
        self,
        density: float,
        granularity: GranularitySpec,
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        """Check and store how the mask is chosen, before the layer is built.

        Args:
            density: share of the kernel's weights that the mask keeps, in (0, 1].
            granularity: unit that is kept or pruned as one; see :func:`hydra_tf.set_density`.
            selection: arguments of a :class:`hydra_tf.sparsity.selection.Selection`.

        Raises:
            ValueError: for a density outside (0, 1], or an unknown granularity.
        """
        kept_count(density, 1)
        self._density = float(density)
        self.granularity = granularity_name(granularity)
        self.selection = Selection(**(selection or {}))

    def mask_options(self) -> dict[str, Any]:
        """Return the arguments of :meth:`set_mask_options` for a config."""
        options: dict[str, Any] = {"density": self.density, "granularity": self.granularity}
        if self.selection != Selection():  # older versions cannot read it
            options["selection"] = dataclasses.asdict(self.selection)
        return options

    def add_scores_and_mask(self, trainable_scores: bool = True) -> None:
        """Create scores and mask for the kernel, which is built.

        Args:
            trainable_scores: whether an optimizer may train the scores.
        """
        shape = tuple(self.kernel.shape)
        size = math.prod(shape)
        self.scores = self.add_weight(
            name="scores",
            shape=shape,
            initializer=lambda shape, dtype: initial_scores(self.kernel, fan_in=self.fan_in),
            dtype="float32",  # for any policy, since half precision would cause ties
            autocast=False,
            trainable=trainable_scores,
            aggregation="none" if trainable_scores else "only_first_replica",
        )
        self.mask = self.add_weight(
            name="mask",
            shape=shape,
            initializer=lambda shape, dtype: self.chosen(kept_count(self._density, size)),
            dtype="bool",  # one byte per weight
            trainable=False,
            aggregation="only_first_replica",
        )
        with tf.init_scope():
            # Not a weight of Keras, so that `weights` has kernel, bias, scores and mask only.
            self.joint_budget = tf.Variable(
                0,
                trainable=False,
                dtype=tf.int32,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    @property
    def label(self) -> str:
        """Name of the kernel in reports and allocations."""
        return self.name

    @property
    def axes(self) -> str:
        """Meaning of the axes of the kernel; see :mod:`hydra_tf.sparsity.granularity`."""
        return default_axes(len(self.kernel.shape))

    @property
    def fan_in(self) -> int:
        """Number of inputs of one output of the layer."""
        return fan_in_of(self.kernel.shape, self.axes)

    @property
    def kernel_dtype(self) -> str:
        """Type of the masked kernel."""
        return str(self.compute_dtype)

    @property
    def density(self) -> float:
        """Share of the weights that the mask keeps; setting it chooses the mask again."""
        mask = getattr(self, "mask", None)
        if mask is None:  # not built yet
            return self._density
        with tf.init_scope():  # configs are also read while a graph is traced
            kept, size = int(self.kept()), math.prod(mask.shape)
        # A density that gives this number is returned as it was set, so that it stays round.
        return self._density if kept == kept_count(self._density, size) else kept / size

    @density.setter
    def density(self, density: float) -> None:
        mask = getattr(self, "mask", None)
        kept = kept_count(density, 1 if mask is None else math.prod(mask.shape))
        self._density = float(density)
        if mask is not None:
            self.joint_budget.assign(0)
            self.refresh_mask(kept)

    def record_density(self, kept: int, density: float) -> None:
        """Store the density that was asked for, before the mask is chosen.

        Args:
            kept: number of weights that the mask will keep, from 1 to all.
            density: the density that was asked for, which is shown if it gives this number.
        """
        size = math.prod(self.mask.shape)
        self._density = float(density) if kept == kept_count(density, size) else kept / size

    def kept(self) -> tf.Tensor:
        """Return the number of weights that the mask keeps, a scalar int32 tensor."""
        return count_kept(tf.convert_to_tensor(self.mask))

    def chosen(self, kept: int | tf.Tensor) -> tf.Tensor:
        """Return where the weights are that the scores choose, booleans of the kernel's shape.

        Args:
            kept: number of weights, a whole number or a scalar tensor, which is rounded down to
                whole groups of the granularity, but at least one.
        """
        granularity = GRANULARITIES.build(self.granularity)
        scores = self.selection.alone().ranked(tf.convert_to_tensor(self.scores))
        return granularity(scores, kept, self.axes)

    def refresh_mask(self, kept: int | tf.Tensor | None = None) -> tf.Tensor:
        """Choose the mask from the scores, and return it.

        Args:
            kept: number of weights to keep, a whole number or a scalar tensor; by default as many
                as the mask keeps now. A graph reads this number whenever it runs, so that a
                density that is set between two steps holds.
        """
        mask = self.chosen(self.kept() if kept is None else kept)
        self.mask.assign(mask)
        return mask

    # Conv and Dense save kernel and bias only; the base class saves all weights.
    def save_own_variables(self, store: Any) -> None:
        """Save all weights; the budget only if there is one, which older versions cannot read."""
        keras.layers.Layer.save_own_variables(self, store)
        budget = self.joint_budget.numpy()
        if budget:
            store[_BUDGET] = budget

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Load the weights that :meth:`save_own_variables` saved.

        Raises:
            ValueError: for the weights of a layer without a mask.
        """
        loaded = {key: store[key] for key in store.keys()}  # noqa: SIM118, h5py has no items
        budget = np.asarray(loaded.pop(_BUDGET, 0), np.int32)
        if len(loaded) < len(self.weights):
            raise ValueError(no_masks_in_file(self.name))
        keras.layers.Layer.load_own_variables(self, loaded)
        self.joint_budget.assign(budget)

    def masked_kernel(self) -> tf.Tensor:
        """Return the kernel times the mask, in :attr:`kernel_dtype`."""
        product = _computed.get().get(id(self))
        # A graph would store an eager product as a constant, so the product is computed again.
        if product is not None and tf.is_symbolic_tensor(product) != tf.executing_eagerly():
            return product
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.kernel_dtype)
        return masked_kernel(
            kernel, tf.convert_to_tensor(self.scores), tf.convert_to_tensor(self.mask)
        )

    def pruned_kernel(self) -> tf.Tensor:
        """Return the kernel with zeros where it is pruned, in the kernel's own dtype."""
        # Adding zero turns the -0.0 of pruned negative weights into 0.0, which compresses better.
        kernel = tf.convert_to_tensor(self.kernel)
        return tf.where(self.mask, kernel, tf.zeros([], kernel.dtype)) + 0.0


def no_masks_in_file(name: str) -> str:
    """Return the error sentence for a file of weights without masks.

    Args:
        name: name of the masked layer.

    Example:
        >>> no_masks_in_file("conv")
        'The file has no scores and masks for "conv"; load it into ...'
    """
    return (
        f'The file has no scores and masks for "{name}"; load it into the network without masks, '
        "and mask that: net.load_weights(...), then hydra_tf.mask_model(net)."
    )
