"""TFMOT's callbacks for magnitude pruning, for Keras 3 models."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from hydra_tf.core.keras_models import all_layers
from hydra_tf.interop.tfmot.pruning_wrapper import PruneLowMagnitude, prune_kernel
from hydra_tf.layers.masked_layer import WeightMask


def pruned_layers(model: keras.Model) -> list[PruneLowMagnitude]:
    """Return the layers of a model that `prune_low_magnitude` has wrapped.

    Example:
        >>> pruned_layers(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]))
        []
    """
    return [layer for layer in all_layers(model) if isinstance(layer, PruneLowMagnitude)]


class UpdatePruningStep(keras.callbacks.Callback):
    """Starts the count of pruning steps, and prunes the weights at the end of each epoch.

    The callback of TFMOT with this name. Training a model of
    :func:`hydra_tf.interop.tfmot.prune_low_magnitude` without it raises an error. A model that was
    loaded continues its count.

    Example:
        >>> UpdatePruningStep().prunable_layers
        []
    """

    def __init__(self) -> None:
        super().__init__()
        self.prunable_layers: list[PruneLowMagnitude] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Set the step of a model that was never trained to 0."""
        self.prunable_layers = pruned_layers(self.model)
        if not self.prunable_layers:
            logging.warning(
                "hydra_tf: UpdatePruningStep has nothing to do, because the model has no layer of "
                "prune_low_magnitude."
            )
        for layer in self.prunable_layers:
            layer.start_counting()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Set pruned weights to 0, which the last step of the optimizer has changed."""
        for layer in self.prunable_layers:
            for mask in layer.masks:
                prune_kernel(mask)


class PruningSummaries(keras.callbacks.TensorBoard):
    """Writes the sparsity and the threshold of each mask for TensorBoard, once an epoch.

    The callback of TFMOT with this name. The values are in the folder ``metrics`` of `log_dir`;
    those of a layer have the tags ``NAME/mask:0/sparsity`` and ``NAME/threshold:0/threshold``. The
    threshold is the smallest magnitude that the mask keeps, when it was chosen.

    Args:
        log_dir: folder for the logs.
        update_freq: as in `keras.callbacks.TensorBoard`.
        **kwargs: further arguments of `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: for a folder that is not a text, or empty.

    Example:
        >>> PruningSummaries("logs").log_dir
        'logs'
    """

    def __init__(self, log_dir: str, update_freq: Any = "epoch", **kwargs: Any) -> None:
        if not isinstance(log_dir, str) or not log_dir:
            raise ValueError(
                f"log_dir must be a non-empty text, the name of a folder, not {log_dir!r}."
            )
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        self._pruning_writer: Any = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Write the values of all masks."""
        super().on_epoch_begin(epoch, logs)
        if self._pruning_writer is None:
            folder = os.path.join(self.log_dir, "metrics")
            self._pruning_writer = tf.summary.create_file_writer(folder)
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        with self._pruning_writer.as_default():
            for layer in pruned_layers(self.model):
                for mask in layer.masks:
                    tf.summary.scalar(f"{mask.label}/mask:0/sparsity", 1 - _density(mask), step)
                    tf.summary.scalar(f"{mask.label}/threshold:0/threshold", _threshold(mask), step)
        self._pruning_writer.flush()


def _density(mask: WeightMask) -> float:
    """Return the share of the weights that a mask keeps."""
    return float(np.mean(keras.ops.convert_to_numpy(mask.mask)))


def _threshold(mask: WeightMask) -> float:
    """Return the smallest magnitude that a mask keeps; 0 if it keeps all weights."""
    kept = keras.ops.convert_to_numpy(mask.mask)
    if kept.all():
        return 0.0
    return float(np.abs(keras.ops.convert_to_numpy(mask.scores))[kept].min())
