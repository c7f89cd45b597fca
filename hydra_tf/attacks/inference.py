"""The network as attacks see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.lazy import tf

Predict = Callable[[Any], Any]


def inference(model: Any) -> Predict:
    """Return what maps images to a model's logits in inference mode.

    Where layers compute in float16, the gradients of a network that is sure of its answer
    vanish on their way back, and hide the network from the attack. There each sample's
    gradient goes back with a largest entry of 1, and gets its size again at the images.

    Args:
        model: a Keras model ``(x, training) -> logits``; its weights get no gradient.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> inference(net)(tf.zeros([1, 2])).shape
        TensorShape([1, 3])
    """

    def predict(x: Any) -> Any:
        return model(x, training=False)

    half = any(layer.compute_dtype == "float16" for layer in all_layers(model))
    if not half:
        return predict
    plainly = tf.autograph.experimental.do_not_convert  # AutoGraph knows no custom gradients
    return cast(Predict, plainly(plainly(_with_gradients_of_size_one)(predict)))


def _with_gradients_of_size_one(predict: Predict) -> Predict:
    @tf.custom_gradient
    def run(x: Any) -> tuple[Any, Callable[..., Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = predict(x)

        def gradient(upstream: Any, variables: Any = ()) -> tuple[Any, list[None]]:
            size = tf.reduce_max(tf.abs(upstream), axis=1)
            unit = tf.cast(tf.math.divide_no_nan(upstream, size[:, None]), logits.dtype)
            none = tf.UnconnectedGradients.ZERO
            found = tape.gradient(logits, x, output_gradients=unit, unconnected_gradients=none)
            return found * tf.reshape(size, [-1] + [1] * (len(x.shape) - 1)), [
                None for _ in variables
            ]

        return tf.cast(logits, tf.float32), gradient

    return run
