"""A layer that turns RGB images into BGR, as networks trained with Caffe expect."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="hydra_tf")
class ReverseChannels(keras.layers.Layer):
    """Reverses the order of the last axis.

    Example:
        >>> ReverseChannels()(tf.constant([[1.0, 2.0, 3.0]])).numpy().tolist()
        [[3.0, 2.0, 1.0]]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the inputs with the last axis reversed."""
        return keras.ops.flip(inputs, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input shape."""
        return input_shape
