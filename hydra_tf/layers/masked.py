"""Masked layers: a mixin over the public Keras classes.

A masked layer has a ``kernel``, trainable float32 ``scores`` of the same shape, and a boolean
``mask``. The mask is state, and so is the number of weights that it keeps: :meth:`refresh_mask`
chooses as many again from the scores, once per optimizer step while scores are trained, and the
forward pass only reads the mask.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.model import MaskedLike
from hydra_tf.sparsity.score_init import initial_scores
from hydra_tf.sparsity.topk import count_kept, kept_count, masked_kernel

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"hydra_tf needs the TensorFlow backend of Keras, not {keras.backend.backend()!r}; set "
        "KERAS_BACKEND=tensorflow."
    )

# Type checkers see the mixin as the Keras layer that it is mixed into.
_Base: Any = keras.layers.Layer if TYPE_CHECKING else object

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
    """
    token = _computed.set({id(layer): layer.masked_kernel() for layer in layers})
    try:
        yield
    finally:
        _computed.reset(token)


class MaskedKernel(_Base):
    """Mixin that prunes the kernel of a Keras layer; it precedes that class in the list of bases.

    Args:
        density: share of the kernel's weights that the mask keeps, in (0, 1].
        granularity: unit that is kept or pruned as one: ``"element"``.

    Raises:
        ValueError: for a density outside (0, 1], an unknown granularity, LoRA or quantization.

    Example:
        >>> layer = MaskedDense(10, density=0.1)
        >>> layer.build((None, 20))
        >>> int(layer.mask.numpy().sum())
        20
    """

    def __init__(
        self, *args: Any, density: float = 1.0, granularity: str = "element", **kwargs: Any
    ) -> None:
        kept_count(density, 1)
        GRANULARITIES.build(granularity)
        if kwargs.get("lora_rank"):
            self.enable_lora()
        super().__init__(*args, **kwargs)
        if self.quantization_mode or getattr(self, "quantization_config", None):
            raise ValueError(
                f"{type(self).__name__} does not support quantized weights; quantize the network "
                "when it is exported, with hydra_tf.export.to_tflite(quantization=...)."
            )
        self._density = float(density)
        self.granularity = granularity

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights of the Keras layer, then scores and mask."""
        super().build(input_shape)
        shape = tuple(self.kernel.shape)
        size = math.prod(shape)
        self.scores = self.add_weight(
            name="scores",
            shape=shape,
            initializer=lambda shape, dtype: initial_scores(self.kernel, fan_in=self.fan_in),
            dtype="float32",  # for any policy, since half precision would cause ties
            autocast=False,
        )
        self.mask = self.add_weight(
            name="mask",
            shape=shape,
            initializer=lambda shape, dtype: self._chosen(kept_count(self._density, size)),
            dtype="bool",  # one byte per weight
            trainable=False,
            aggregation="only_first_replica",
        )

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuse LoRA, whose weights have no mask."""
        raise ValueError(
            f"{type(self).__name__} does not support LoRA, whose weights have no mask; merge them "
            "into the kernel, or leave this layer unmasked with mask_model(exclude=...)."
        )

    @property
    def fan_in(self) -> int:
        """Number of inputs of one output of the layer."""
        return math.prod(self.kernel.shape[:-1])

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
            self.refresh_mask(kept)

    def kept(self) -> tf.Tensor:
        """Return the number of weights that the mask keeps, a scalar int32 tensor."""
        return count_kept(tf.convert_to_tensor(self.mask))

    def _chosen(self, kept: int | tf.Tensor) -> tf.Tensor:
        """Return where the weights are that the scores choose."""
        granularity = GRANULARITIES.build(self.granularity)
        return granularity(tf.convert_to_tensor(self.scores), kept)

    def refresh_mask(self, kept: int | tf.Tensor | None = None) -> tf.Tensor:
        """Choose the mask from the scores, and return it.

        Args:
            kept: number of weights to keep, a whole number or a scalar tensor; by default as many
                as the mask keeps now. A graph reads this number whenever it runs, so that a
                density that is set between two steps holds.
        """
        mask = self._chosen(self.kept() if kept is None else kept)
        self.mask.assign(mask)
        return mask

    def masked_kernel(self) -> tf.Tensor:
        """Return the kernel times the mask, in the layer's compute dtype."""
        product = _computed.get().get(id(self))
        # A graph would store an eager product as a constant, so the product is computed again.
        if product is not None and tf.is_symbolic_tensor(product) != tf.executing_eagerly():
            return product
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)
        return masked_kernel(
            kernel, tf.convert_to_tensor(self.scores), tf.convert_to_tensor(self.mask)
        )

    def get_config(self) -> dict[str, Any]:
        """Return the config of the Keras layer with `density` and `granularity`."""
        config: dict[str, Any] = super().get_config()
        return {**config, "density": self.density, "granularity": self.granularity}

    # Conv and Dense save kernel and bias only; the base class saves all weights.
    def save_own_variables(self, store: Mapping[str, Any]) -> None:
        """Save kernel, bias, scores and mask."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Load kernel, bias, scores and mask."""
        keras.layers.Layer.load_own_variables(self, store)


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
    def fan_in(self) -> int:
        """Spatial size of the kernel, since an output has one input channel."""
        return math.prod(self.kernel.shape[:-2])

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
    """`keras.layers.Conv1D` with a pruned kernel; see :class:`MaskedKernel`."""

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
    """`keras.layers.Conv2D` with a pruned kernel; see :class:`MaskedKernel`."""


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedConv3D(_ThroughConvolutionOp, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with a pruned kernel; see :class:`MaskedKernel`."""


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedDepthwiseConv1D(_DepthwiseCall, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with a pruned kernel; see :class:`MaskedKernel`."""


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedDepthwiseConv2D(_DepthwiseCall, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a pruned kernel; see :class:`MaskedKernel`."""


@keras.saving.register_keras_serializable(package="hydra_tf")
class MaskedDense(MaskedKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a pruned kernel; see :class:`MaskedKernel`."""

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
