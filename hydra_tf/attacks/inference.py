"""The model as a function of images, with gradients that do not vanish in float16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Classifier, Images, Logits

Predict = Callable[[Images], Logits]


def inference(model: Classifier) -> Predict:
    """Return a function that maps images to the model's logits in inference mode.

    In float16 the gradients of confident predictions underflow to zero in the backward pass,
    which would mask them from the attack. If a layer computes in float16, the gradient of each
    sample is therefore scaled to a largest entry of 1 at the logits, and scaled back at the
    images.

    Args:
        model: a Keras model ``(x, training) -> logits``; with float16 layers its weights get no
            gradient.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> inference(net)(tf.zeros([1, 2])).shape
        TensorShape([1, 3])
    """

    def predict(x: Images) -> Logits:
        return model(x, training=False)

    has_float16 = any(layer.compute_dtype == "float16" for layer in all_layers(model))
    if not has_float16:
        return predict
    # AutoGraph does not support custom gradients.
    do_not_convert = tf.autograph.experimental.do_not_convert
    return cast(Predict, do_not_convert(do_not_convert(_with_scaled_gradients)(predict)))


def _with_scaled_gradients(predict: Predict) -> Predict:
    @tf.custom_gradient
    def run(x: Images) -> tuple[Logits, Callable[..., tuple[tf.Tensor, list[None]]]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = predict(x)

        def gradient(
            upstream: tf.Tensor, variables: Sequence[tf.Variable] = ()
        ) -> tuple[tf.Tensor, list[None]]:
            size = tf.reduce_max(tf.abs(upstream), axis=1)
            unit = tf.cast(tf.math.divide_no_nan(upstream, size[:, None]), logits.dtype)
            zero = tf.UnconnectedGradients.ZERO
            scaled = tape.gradient(logits, x, output_gradients=unit, unconnected_gradients=zero)
            size = tf.reshape(size, [-1] + [1] * (len(x.shape) - 1))
            return scaled * size, [None] * len(variables)

        return tf.cast(logits, tf.float32), gradient

    return run
