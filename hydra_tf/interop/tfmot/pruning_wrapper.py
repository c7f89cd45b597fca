"""Magnitude pruning of one Keras 3 layer, with the meaning of TFMOT's wrapper of this name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hydra_tf.core.graphs import converted
from hydra_tf.interop.tfmot.schedules import (
    PruningSchedule,
    require_schedule,
    schedule_config,
    schedule_from_config,
)
from hydra_tf.interop.tfmot.weight_groups import WeightGroups
from hydra_tf.layers.masked_layer import MaskedLayer, WeightMask
from hydra_tf.sparsity.kernel_weights import is_one_of, kernel_weights

_NO_CALLBACK = (
    "A layer of prune_low_magnitude is trained without the callback UpdatePruningStep; pass it to "
    "model.fit(callbacks=[...])."
)


@keras.saving.register_keras_serializable(package="hydra_tf")
class PruneLowMagnitude(MaskedLayer):
    """Prunes the smallest weights of a layer while it is trained, as the schedule says.

    Each step in training mode counts up ``pruning_step``. Where the schedule says so, the mask is
    chosen again: it keeps the largest ``max(1, round(n * (1 - sparsity)))`` of n weights or blocks
    of weights; with m of n weights, it is chosen in the first step only. Then
    pruned weights are set to 0 and the layer is called. Pruned weights get gradients, so that they
    can grow back before the mask is chosen again. In inference mode nothing changes. All this is as
    in TFMOT; of equal magnitudes, those of the lowest indices are kept, while TFMOT keeps all.

    Args:
        layer: a Keras layer.
        pruning_schedule: a `PruningSchedule` of TFMOT, or a callable like it.
        paths: paths of the kernels to prune; by default those that TFMOT prunes: all kernels and
            embeddings, but no depthwise kernels.
        masks: the masks, for a layer that is loaded.
        block_size: height and width of the blocks of a matrix that are pruned as one.
        block_pooling_type: ``"AVG"`` or ``"MAX"``, by which blocks are ranked.
        sparsity_m_by_n: (m, n), to prune m of every n consecutive inputs of an output.

    Raises:
        TypeError: for something that is not a Keras layer or a pruning schedule.
        ValueError: for groups that are out of range, or that a kernel does not have.

    Example:
        >>> schedule = lambda step: (True, 0.5)
        >>> schedule.get_config = dict
        >>> layer = PruneLowMagnitude(keras.layers.Dense(2, name="dense"), schedule)
        >>> layer.name
        'prune_low_magnitude_dense'
    """

    trainable_scores = False  # they are the magnitudes of the weights
    takes_training = True
    prunes_itself = True

    def __init__(
        self,
        layer: keras.layers.Layer,
        pruning_schedule: PruningSchedule,
        paths: Sequence[str] | None = None,
        masks: Sequence[WeightMask] = (),
        block_size: Sequence[int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        require_schedule(pruning_schedule)
        self.weight_groups = WeightGroups(block_size, block_pooling_type, sparsity_m_by_n)
        self.pruning_schedule = pruning_schedule
        self._first_step = -1  # of a layer that is not counting yet
        if isinstance(layer, keras.layers.Layer):  # which the base class checks
            kwargs.setdefault("name", f"prune_low_magnitude_{layer.name}")
        super().__init__(layer, paths, masks, **kwargs)
        self.supports_jit = False  # XLA cannot compile the selection, and drops the check of steps
        self._schedule_in_graph = converted(pruning_schedule)

    def _add_masks(self) -> None:
        """Create scores, masks and the number of training steps, once."""
        if self.built:
            return
        self.pruning_step = self.add_weight(
            name="pruning_step",
            shape=(),
            dtype="int64",
            initializer=keras.initializers.Constant(self._first_step),
            trainable=False,
            aggregation="only_first_replica",
        )
        super()._add_masks()
        for mask in self.masks:
            self.weight_groups.check_kernel(mask.label, mask.kernel.shape)

    def default_paths(self) -> list[str]:
        """Return the paths of the kernels that TFMOT prunes, perhaps none."""
        return [
            weight.path
            for weight in kernel_weights(self.layer, embeddings=True)
            if hasattr(weight.owner, "get_prunable_weights")
            or not (
                is_one_of(weight.owner, ("DepthwiseConv1D", "DepthwiseConv2D"))
                or weight.variable.name == "depthwise_kernel"
            )
        ]

    def start_counting(self) -> None:
        """Begin to count training steps, from 0 if the layer was never trained."""
        if not self.built:  # Keras builds some models in their first step
            self._first_step = 0
        elif int(keras.ops.convert_to_numpy(self.pruning_step)) == -1:
            self.pruning_step.assign(0)

    def call_masked(self, *args: Any, **kwargs: Any) -> Any:
        """Prune if the layer is trained, then call it."""
        training = kwargs.get("training")
        if "training" not in inspect.signature(self.layer.call).parameters:
            kwargs.pop("training", None)
        if not training:
            return super().call_masked(*args, **kwargs)
        self._count_and_prune()
        return self.layer(*args, **kwargs)

    def _count_and_prune(self) -> None:
        """Count the step, choose the masks if the schedule says so, and prune the kernels."""
        step = tf.convert_to_tensor(self.pruning_step) + 1
        counted = tf.debugging.assert_greater_equal(step, tf.ones([], step.dtype), _NO_CALLBACK)
        with tf.control_dependencies([counted] if counted is not None else []):
            self.pruning_step.assign(step)
        should_prune, sparsity = self._schedule_in_graph(step)
        if self.weight_groups.sparsity_m_by_n is not None:
            should_prune = tf.equal(step, 1)
        should_prune = tf.convert_to_tensor(should_prune)
        for mask in self.masks:
            self._choose(mask, should_prune, tf.cast(sparsity, tf.float32))
            prune_kernel(mask)

    def _choose(self, mask: WeightMask, should_prune: tf.Tensor, sparsity: tf.Tensor) -> None:
        """Choose a mask from the magnitudes of the weights if `should_prune` is true."""
        kernel = tf.cast(tf.convert_to_tensor(mask.kernel), tf.float32)
        # Variables are assigned outside of conditions: replicas cannot do that inside.
        mask.scores.assign(tf.where(should_prune, kernel, tf.convert_to_tensor(mask.scores)))
        chosen = tf.cond(
            should_prune,
            lambda: self.weight_groups.chosen(kernel, sparsity, mask.axes),
            lambda: tf.convert_to_tensor(mask.mask),
        )
        mask.mask.assign(chosen)

    def save_own_variables(self, store: Any) -> None:
        """Save the number of masks and of training steps.

        Raises:
            ValueError: for a layer that is not built.
        """
        if not self.built:
            raise ValueError(
                f'The layer "{self.name}" is not built yet, so that it has no masks to save; call '
                "the model on a batch, or train it."
            )
        super().save_own_variables(store)
        store["pruning_step"] = keras.ops.convert_to_numpy(self.pruning_step)

    def load_own_variables(self, store: Any) -> None:
        """Load the number of training steps."""
        super().load_own_variables(store)
        self.pruning_step.assign(store["pruning_step"])

    def get_config(self) -> dict[str, Any]:
        """Return the layer inside, its masks, the schedule and the groups of weights."""
        schedule = {"pruning_schedule": schedule_config(self.pruning_schedule)}
        return {**super().get_config(), **schedule, **self.weight_groups.config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PruneLowMagnitude:
        """Return the layer that :meth:`get_config` describes, not built."""
        schedule = schedule_from_config(config["pruning_schedule"], custom_objects)
        return super().from_config({**config, "pruning_schedule": schedule}, custom_objects)


def prune_kernel(mask: WeightMask) -> None:
    """Set the pruned weights of a kernel to 0.

    Args:
        mask: the mask of the kernel.
    """
    kernel = mask.pruned_kernel()
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        mask.kernel.assign(kernel)
        return
    # Kernels of Keras have no rule for combining the values that replicas assign.
    replica.merge_call(
        lambda strategy, value: strategy.extended.update(
            mask.kernel.value, lambda variable, own: variable.assign(own), args=(value,)
        ),
        args=(kernel,),
    )
