"""Masked layers: a mixin over the public Keras classes.

A masked layer has a ``kernel``, trainable float32 ``scores`` of the same shape, and a boolean
``mask``; see :mod:`hydra_tf.layers.mask_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from hydra_tf.layers.mask_state import MaskState
from hydra_tf.sparsity.granularity import GranularitySpec
from hydra_tf.sparsity.score_init import initial_scores

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"hydra_tf needs the TensorFlow backend of Keras, not {keras.backend.backend()!r}; set "
        "KERAS_BACKEND=tensorflow."
    )


class MaskedKernel(MaskState):
    """Mixin that prunes the kernel of a Keras layer; it precedes that class in the list of bases.

    Args:
        density: share of the kernel's weights that the mask keeps, in (0, 1].
        granularity: unit that is kept or pruned as one; see :func:`hydra_tf.set_density`.
        selection: arguments of :class:`hydra_tf.sparsity.selection.Selection`.

    Raises:
        ValueError: for a density outside (0, 1], an unknown granularity, LoRA or quantization.

    Example:
        >>> layer = MaskedDense(10, density=0.1)
        >>> layer.build((None, 20))
        >>> int(layer.mask.numpy().sum())
        20
    """

    def __init__(
        self,
        *args: Any,
        density: float = 1.0,
        granularity: GranularitySpec = "element",
        selection: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("lora_rank"):
            self.enable_lora()
        super().__init__(*args, **kwargs)
        self.set_mask_options(density, granularity, selection)
        if self.quantization_mode or getattr(self, "quantization_config", None):
            raise ValueError(
                f"{type(self).__name__} does not support quantized weights; quantize the network "
                "when it is exported, with hydra_tf.export.to_tflite(quantization=...)."
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights of the Keras layer, then scores and mask."""
        super().build(input_shape)
        self.add_scores_and_mask()

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuse LoRA, whose weights have no mask."""
        raise ValueError(
            f"{type(self).__name__} does not support LoRA, whose weights have no mask; merge them "
            "into the kernel, or leave this layer unmasked with mask_model(exclude=...)."
        )

    def read_plain(self, layer: keras.layers.Layer) -> None:
        """Copy the weights of a layer without a mask, and initialise the scores.

        Args:
            layer: a built layer of the Keras class.
        """
        self.kernel.assign(layer.kernel)
        self.scores.assign(initial_scores(self.kernel, fan_in=self.fan_in))
        if self.bias is not None:
            self.bias.assign(layer.bias)

    def write_plain(self, layer: keras.layers.Layer) -> None:
        """Copy the weights to a layer without a mask, with zeros where they are pruned.

        Args:
            layer: a built layer of the Keras class.
        """
        layer.kernel.assign(self.pruned_kernel())
        if self.bias is not None:
            layer.bias.assign(self.bias)

    def get_config(self) -> dict[str, Any]:
        """Return the config of the Keras layer with `density` and `granularity`."""
        config: dict[str, Any] = super().get_config()
        return {**config, **self.mask_options()}


class _ThroughConvolutionOp(MaskedKernel):
    """Mixin for Keras convolutions with the public method `convolution_op`."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return super().convolution_op(inputs, self.masked_kernel())


class _OwnCall(MaskedKernel):
    """Mixin for Keras convolutions without the method `convolution_op`."""

    def _finish(self, outputs: tf.Tensor) -> tf.Tensor:
        """Add the bias to the channels and apply the activation."""
        if self.use_bias:
            shape = [1] * len(outputs.shape)
            shape[-1 if self.data_format == "channels_last" else 1] = -1
            outputs = keras.ops.add(outputs, keras.ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)


class _DepthwiseCall(_OwnCall):
    @property
    def axes(self) -> str:
        """Meaning of the axes of the kernel, whose channels are inputs and outputs."""
        return "s" * (len(self.kernel.shape) - 2) + "co"

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the depthwise convolution with ``kernel * mask``."""
        outputs = keras.ops.depthwise_conv(
            inputs,
            self.masked_kernel(),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._finish(outputs)


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedConv1D(_OwnCall, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with a pruned kernel; see :class:`MaskedKernel`.

    Example:
        >>> layer = MaskedConv1D(4, 3, density=0.25)
        >>> layer.build((None, 8, 2))
        >>> int(layer.kept()), layer.mask.shape.num_elements()
        (6, 24)
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the convolution with ``kernel * mask``; padding may be causal."""
        padding = self.padding
        if padding == "causal":
            padded = (self.dilation_rate[0] * (self.kernel_size[0] - 1), 0)
            axes = [padded, (0, 0)] if self.data_format == "channels_last" else [(0, 0), padded]
            inputs = keras.ops.pad(inputs, [(0, 0), *axes])
            padding = "valid"
        outputs = keras.ops.conv(
            inputs,
            self.masked_kernel(),
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._finish(outputs)


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedConv2D(_ThroughConvolutionOp, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a pruned kernel; see :class:`MaskedKernel`.

    Example:
        >>> layer = MaskedConv2D(4, 3, density=0.25)
        >>> layer.build((None, 8, 8, 2))
        >>> int(layer.kept()), layer.mask.shape.num_elements()
        (18, 72)
    """


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedConv3D(_ThroughConvolutionOp, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with a pruned kernel; see :class:`MaskedKernel`.

    Example:
        >>> layer = MaskedConv3D(4, 3, density=0.25)
        >>> layer.build((None, 8, 8, 8, 2))
        >>> int(layer.kept()), layer.mask.shape.num_elements()
        (54, 216)
    """


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedDepthwiseConv1D(_DepthwiseCall, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with a pruned kernel; see :class:`MaskedKernel`.

    Example:
        >>> layer = MaskedDepthwiseConv1D(3, density=0.5)
        >>> layer.build((None, 8, 2))
        >>> int(layer.kept()), layer.mask.shape.num_elements()
        (3, 6)
    """


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedDepthwiseConv2D(_DepthwiseCall, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a pruned kernel; see :class:`MaskedKernel`.

    Example:
        >>> layer = MaskedDepthwiseConv2D(3, density=0.5)
        >>> layer.build((None, 8, 8, 2))
        >>> int(layer.kept()), layer.mask.shape.num_elements()
        (9, 18)
    """


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedDense(MaskedKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a pruned kernel; see :class:`MaskedKernel`.

    Example:
        >>> layer = MaskedDense(1, use_bias=False, kernel_initializer="ones")
        >>> layer.build((None, 4))
        >>> layer.density = 0.5
        >>> layer(keras.ops.array([[1.0, 2.0, 4.0, 8.0]])).numpy()  # ties go to the lowest index
        array([[3.]], dtype=float32)
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return ``activation(inputs @ (kernel * mask) + bias)``."""
        outputs = keras.ops.matmul(inputs, self.masked_kernel())
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


MASKED: dict[type[keras.layers.Layer], type[MaskedKernel]] = {
    keras.layers.Conv1D: MaskedConv1D,
    keras.layers.Conv2D: MaskedConv2D,
    keras.layers.Conv3D: MaskedConv3D,
    keras.layers.DepthwiseConv1D: MaskedDepthwiseConv1D,
    keras.layers.DepthwiseConv2D: MaskedDepthwiseConv2D,
    keras.layers.Dense: MaskedDense,
}
