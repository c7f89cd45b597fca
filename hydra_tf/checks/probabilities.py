"""Which models output probabilities instead of logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydra_tf.core.lazy import keras, tf

# Layers that only rearrange values; Dropout does nothing in inference mode.
_REARRANGING = {"Reshape", "Flatten", "Identity", "Dropout"}
_PROBABILITIES = {"softmax", "softmaxv2", "logsoftmax", "sigmoid", "logsigmoid", "hardsigmoid"}
_LARGE = 1e4  # far beyond usual logits and pixels, and within the range of float16


def is_probability(name: str) -> bool:
    """Return whether an activation, layer or operation of this name outputs probabilities.

    Log-probabilities count as probabilities.

    Args:
        name: name of the function or class.

    Example:
        >>> is_probability("log_softmax"), is_probability("Softmax"), is_probability("relu")
        (True, True, False)
    """
    return name.replace("_", "").lower() in _PROBABILITIES


def last_operation(model: Any) -> Any:
    """Return the last operation of a model that changes values, also within nested models.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.ReLU(), keras.layers.Flatten()])
        >>> type(last_operation(net)).__name__
        'ReLU'
    """
    inside = getattr(model, "layer", None)
    if isinstance(inside, keras.layers.Layer):  # of a wrapper, such as TimeDistributed
        return last_operation(inside)
    operations = getattr(model, "operations", None) or getattr(model, "layers", None) or ()
    for operation in reversed(operations):
        name = type(operation).__name__
        linear = name == "Activation" and operation.activation.__name__ == "linear"
        if not linear and name not in _REARRANGING:
            return last_operation(operation)
    return model


def probability_layer(model: Any) -> Any:
    """Return the last layer or operation of a model if its name says probabilities, else None.

    Args:
        model: a Keras model.

    Example:
        >>> import keras
        >>> layers = keras.layers.Dense(3), keras.layers.Softmax(name="last")
        >>> probability_layer(keras.Sequential([keras.Input([2]), *layers])).name
        'last'
    """
    last = last_operation(model)
    # An operation such as keras.ops.softmax has a class; a layer may have an activation.
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return last if is_probability(type(last).__name__) or is_probability(activation) else None


def sigmoid_layer(model: Any, classes: int) -> Any:
    """Return the last layer of a model if it computes a sigmoid, whatever its name, else None.

    A layer without weights, or an activation, counts as a sigmoid if it maps large negative
    numbers to 0 and large positive ones to 1.

    Args:
        model: a Keras model.
        classes: number of outputs.

    Example:
        >>> import keras
        >>> last = keras.layers.Dense(3, lambda x: keras.ops.sigmoid(2 * x), name="last")
        >>> sigmoid_layer(keras.Sequential([keras.Input([2]), last]), 3).name
        'last'
    """
    last = last_operation(model)
    function = getattr(last, "activation", None)
    if function is None and not getattr(last, "weights", ()):
        function = last
    if last is model or not callable(function):
        return None
    try:
        outputs = np.asarray(function(tf.constant([[-_LARGE] * classes, [_LARGE] * classes])))
    except (ValueError, TypeError, tf.errors.OpError):
        return None  # it takes something else than logits
    saturated = [[0.0] * classes, [1.0] * classes]
    same = outputs.shape == (2, classes) and np.allclose(outputs, saturated, atol=1e-3)
    return last if same else None


def in_unit_interval(outputs: Any) -> bool:
    """Return whether all outputs lie in [0, 1].

    Example:
        >>> in_unit_interval(np.array([[0.9, 0.8]])), in_unit_interval(np.array([[2.0, 0.8]]))
        (True, False)
    """
    array = np.asarray(outputs)
    return bool(array.size and np.all((array >= 0) & (array <= 1)))


def stays_in_unit_interval(model: Any, x: Any) -> bool:
    """Return whether a model outputs different numbers in [0, 1] for very large noise.

    Logits grow with their input, probabilities do not.

    Args:
        model: a Keras model or another callable ``(x, training) -> outputs``.
        x: [batch, ...] images, for their shape.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
        >>> stays_in_unit_interval(net, np.zeros((2, 4)))
        False
    """
    noise = tf.random.stateless_uniform(tf.shape(x), [0, 0], -_LARGE, _LARGE)
    try:
        outputs = np.asarray(model(noise, training=False))
    except (ValueError, TypeError, tf.errors.OpError):
        return False  # it checks its input
    return in_unit_interval(outputs) and bool(np.any(outputs != outputs[:1]))
