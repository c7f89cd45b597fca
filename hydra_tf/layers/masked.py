"""Masked layers: a mixin over the public Keras classes.

A masked layer has a ``kernel``, trainable float32 ``scores`` of its shape, and a boolean
``mask`` that is state: it is chosen from the scores by :meth:`refresh_mask`, once
per optimizer step while scores are trained, and only read by the forward pass.
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
from hydra_tf.sparsity.score_init import initial_scores
from hydra_tf.sparsity.topk import kept_count, masked_kernel

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"hydra_tf needs Keras on TensorFlow, but it runs on {keras.backend.backend()!r}; "
        "set KERAS_BACKEND=tensorflow."
    )

# To a type checker the mixin is a Keras layer, which it becomes when it is mixed in.
_Base: Any = keras.layers.Layer if TYPE_CHECKING else object

_computed: ContextVar[Mapping[int, tf.Tensor]] = ContextVar(
    "hydra_tf_kernels", default=MappingProxyType({})
)


@contextlib.contextmanager
def kernels_computed_once(layers: Iterable[Any]) -> Iterator[None]:
    """Within this context the masked kernels are products made once, not at every call.

    An attack of ten steps calls the network eleven times with the same weights; masking
    them each time would cost what the mask saves. Gradients flow as without it, provided
    the context is opened under the tape.

    Args:
        layers: the masked layers, all of them built.
    """
    token = _computed.set({id(layer): layer.masked_kernel() for layer in layers})
    try:
        yield
    finally:
        _computed.reset(token)


class MaskedKernel(_Base):
    """Mixin that prunes the kernel of the Keras layer it stands before.

    Args:
        density: share of the kernel's weights that the mask keeps, in (0, 1].
        granularity: what is kept or pruned as one: ``"element"``.

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
        super().__init__(*args, **kwargs)
        self.density = float(density)
        self.granularity = granularity

    def build(self: Any, input_shape: Any) -> None:
        """Create the layer's own weights, then the scores and the mask that follow from them."""
        super().build(input_shape)
        shape = tuple(self.kernel.shape)
        self.scores = self.add_weight(
            name="scores",
            shape=shape,
            initializer=lambda shape, dtype: initial_scores(self.kernel, fan_in=self.fan_in),
            dtype="float32",  # whatever the policy: half precision would make scores collide
            autocast=False,
        )
        self.mask = self.add_weight(
            name="mask",
            shape=shape,
            initializer=lambda shape, dtype: self._chosen(),
            dtype="bool",  # one byte a weight
            trainable=False,
            aggregation="only_first_replica",
        )

    @property
    def fan_in(self: Any) -> int:
        """Inputs that feed one output of the layer."""
        return math.prod(self.kernel.shape[:-1])

    def _chosen(self: Any) -> tf.Tensor:
        """The mask that the scores ask for at the layer's density."""
        granularity = GRANULARITIES.build(self.granularity)
        return granularity(tf.convert_to_tensor(self.scores), self.density)

    def refresh_mask(self: Any) -> tf.Tensor:
        """Choose the mask from the scores at the layer's density, and return it."""
        chosen = self._chosen()
        self.mask.assign(chosen)
        return chosen

    def masked_kernel(self: Any) -> tf.Tensor:
        """The kernel times the mask, in the layer's compute dtype."""
        product = _computed.get().get(id(self))
        # A graph would keep an eager product for good, so there it is made anew.
        if product is not None and tf.is_symbolic_tensor(product) != tf.executing_eagerly():
            return product
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)
        return masked_kernel(
            kernel, tf.convert_to_tensor(self.scores), tf.convert_to_tensor(self.mask)
        )

    def get_config(self: Any) -> dict[str, Any]:
        """The Keras layer's config with `density` and `granularity`."""
        config: dict[str, Any] = super().get_config()
        return {**config, "density": self.density, "granularity": self.granularity}

    # Conv and Dense save only the weights they know; the base class saves all of them.
    def save_own_variables(self: Any, store: Any) -> None:
        """Save kernel, bias, scores and mask."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self: Any, store: Any) -> None:
        """Load kernel, bias, scores and mask."""
        keras.layers.Layer.load_own_variables(self, store)


class _ThroughConvolutionOp(MaskedKernel):
    """For Keras convolutions, which name their kernel in one public method."""

    def convolution_op(self: Any, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, self.masked_kernel())


class _OwnCall(MaskedKernel):
    """For Keras convolutions whose `call` has no such method."""

    def _finish(self: Any, outputs: Any) -> Any:
        """Add the bias along the channels and apply the activation."""
        if self.use_bias:
            shape = [1] * len(outputs.shape)
            shape[-1 if self.data_format == "channels_last" else 1] = -1
            outputs = keras.ops.add(outputs, keras.ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)


class _DepthwiseCall(_OwnCall):
    @property
    def fan_in(self: Any) -> int:
        """A depthwise kernel's outputs see one channel each: its spatial size alone."""
        return math.prod(self.kernel.shape[:-2])

    def call(self: Any, inputs: Any) -> Any:
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

    def call(self, inputs: Any) -> Any:
        """Return the convolution with ``kernel * mask``, causal padding included."""
        padding = self.padding
        if padding == "causal":
            past = (self.dilation_rate[0] * (self.kernel_size[0] - 1), 0)
            axes = [past, (0, 0)] if self.data_format == "channels_last" else [(0, 0), past]
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

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return ``activation(inputs @ (kernel * mask) + bias)``."""
        outputs = keras.ops.matmul(inputs, self.masked_kernel())
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


MASKED: dict[Any, Any] = {
    keras.layers.Conv1D: MaskedConv1D,
    keras.layers.Conv2D: MaskedConv2D,
    keras.layers.Conv3D: MaskedConv3D,
    keras.layers.DepthwiseConv1D: MaskedDepthwiseConv1D,
    keras.layers.DepthwiseConv2D: MaskedDepthwiseConv2D,
    keras.layers.Dense: MaskedDense,
}
