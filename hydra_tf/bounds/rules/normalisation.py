"""Rules of layers that scale and shift values."""

from __future__ import annotations

import numpy as np

from hydra_tf.bounds.rounding import TINY
from hydra_tf.bounds.rules.nodes import Affine, Node
from hydra_tf.bounds.rules.registry import Shapes, register_rule
from hydra_tf.core.lazy import keras, tf


@register_rule("layers.BatchNormalization")
def batch_normalization(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the node of batch normalisation with its moving statistics, as in inference."""
    mean, beta = _float32(layer.moving_mean), _float32(layer.beta) if layer.center else 0.0
    variance = _float32(layer.moving_variance) + layer.epsilon
    inverse = tf.math.rsqrt(variance)
    scale = inverse * _float32(layer.gamma) if layer.scale else inverse
    # What underflow can change in the scale; there is no bound if the variance may be 0.
    lost = tf.where(variance >= _SMALL, 1 + inverse, np.inf)
    shift = beta - mean * scale
    magnitude = tf.abs(beta) + tf.abs(mean * scale) + _SMALL * (tf.abs(scale) + tf.abs(mean) * lost)
    lost *= TINY
    shape = [1] * (len(shapes[0]) - 1)
    shape[layer.axis if layer.axis < 0 else layer.axis - 1] = -1
    return _scaled(*(tf.reshape(tensor, shape) for tensor in (scale, shift, magnitude, lost)))


@register_rule("layers.Normalization")
def normalization(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the nodes of ``(x - mean) / deviation``, or of the inverse, in this order.

    Each is a node of its own, because the difference may overflow.
    """
    mean, variance = (_float32(tensor)[0] for tensor in (layer.mean, layer.variance))
    deviation = tf.maximum(tf.sqrt(variance), keras.config.epsilon())
    # What underflow can change in the deviation; there is no bound if it may be 0.
    lost = tf.where((variance >= _SMALL) | (deviation >= 2.0**-40), 0.0, np.inf)
    zero = tf.zeros_like(mean)
    if layer.invert:
        return _scaled(deviation, mean, tf.abs(mean), lost)
    shifted = _scaled(tf.ones_like(mean), -mean, tf.abs(mean))
    return shifted + _scaled(1 / deviation, zero, zero, lost)


@register_rule("layers.Rescaling")
def rescaling(layer: keras.layers.Layer, shapes: Shapes) -> list[Node]:
    """Return the node of ``x * scale + offset``."""
    scale, offset = _float32(layer.scale), _float32(layer.offset)
    if len(scale.shape) and keras.config.image_data_format() == "channels_first":
        scale = tf.reshape(scale, [*scale.shape, *[1] * (3 - len(scale.shape))])
    return _scaled(scale, offset, tf.abs(offset))


# The error of a node is more than 2**-20 times the magnitude of its shift, so with this share of
# the numbers that a shift is computed from it is more than TINY times them.
_SMALL = 2.0**-100


def _scaled(
    scale: tf.Tensor,
    shift: tf.Tensor,
    shift_magnitude: tf.Tensor,
    scale_underflow: tf.Tensor | None = None,
) -> list[Node]:
    """Return the node of ``scale * x + shift``."""
    return [
        Affine(
            lambda x: x * scale,
            lambda x: x * tf.abs(scale),
            shift,
            shift_magnitude,
            terms=12,  # includes the square root and the quotient in the scale
            fan_out=12,
            diagonal=True,
            weight_error=None if scale_underflow is None else lambda x: x * scale_underflow,
        )
    ]


def _float32(weight: tf.Tensor) -> tf.Tensor:
    return tf.convert_to_tensor(weight, tf.float32)
