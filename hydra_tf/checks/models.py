"""Checks that a model outputs logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydra_tf.core.keras_models import wrapped_network

# Layers that only rearrange values; Dropout does nothing in inference mode.
_REARRANGING = {"Reshape", "Flatten", "Identity", "Dropout"}
_PROBABILITIES = {"softmax", "softmaxv2", "logsoftmax", "sigmoid", "logsigmoid", "hardsigmoid"}


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


def network_of(model: Any) -> Any:
    """Return the network to evaluate: that of a :class:`hydra_tf.RobustModel`, or the model itself.

    Raises:
        ValueError: as :func:`require_logits`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> network_of(net) is net
        True
    """
    require_logits(model)
    return wrapped_network(model)


def _last_operation(model: Any) -> Any:
    """Return the last operation of a model that changes values, also within nested models."""
    operations = getattr(model, "operations", None) or getattr(model, "layers", None) or ()
    for operation in reversed(operations):
        name = type(operation).__name__
        linear = name == "Activation" and operation.activation.__name__ == "linear"
        if not linear and name not in _REARRANGING:
            return _last_operation(operation)
    return model


def require_logits(model: Any) -> None:
    """Check that a model does not end in a softmax or sigmoid: losses and attacks need logits.

    Args:
        model: a Keras model.

    Raises:
        ValueError: naming the layer and the fix; also for several inputs or outputs.

    Example:
        >>> import keras
        >>> require_logits(keras.Sequential([keras.Input([2]), keras.layers.Dense(3)]))
    """
    net = wrapped_network(model)
    for what in ("inputs", "outputs"):
        count = len(getattr(net, what, None) or [None])
        if count != 1:
            raise ValueError(
                f"The model has {count} {what}, but robust training and attacks need one input, "
                "the images, and one output, the logits; pass keras.Model(images, logits)."
            )
    last = _last_operation(model)
    # An operation such as keras.ops.softmax has a class; a layer may have an activation.
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    if is_probability(type(last).__name__) or is_probability(activation):
        raise ValueError(
            f'The model ends in probabilities (layer "{last.name}"), but robust losses and '
            "attacks need logits; remove the softmax, or give the last layer activation=None."
        )


def check_logits(outputs: Any) -> None:
    """Check that outputs are not probabilities or their logarithms.

    Args:
        outputs: [batch, classes] outputs of a model on a batch of images.

    Raises:
        ValueError: when every row, or its exponential, is non-negative and sums to 1, or for
            another shape.

    Example:
        >>> check_logits(np.array([[2.0, -1.0]]))
    """
    array = np.asarray(outputs)
    # A wider tolerance would reject logits that sum to 1 by chance; half precision needs it.
    tolerance = 1e-2 if array.dtype.itemsize == 2 else 1e-5
    rows = array.astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ValueError(
            f"The model must output logits of shape [batch, classes] with at least 2 classes, not "
            f"{rows.shape}."
        )
    if rows.size and rows.min() >= 0 and _all_one(rows, tolerance):
        raise ValueError(
            "The model outputs probabilities (every row sums to 1), but robust losses and attacks "
            "need logits; remove the softmax."
        )
    # A class whose logit is always 0 is a reference class, so these are logits.
    has_reference = bool((rows == 0).all(axis=0).any())
    if rows.size and rows.max() <= 0 and not has_reference and _all_one(np.exp(rows), tolerance):
        raise ValueError(
            "The model outputs logarithms of probabilities (the exponentials of every row sum to "
            "1), but robust losses and attacks need logits; remove the softmax and the logarithm."
        )


def _all_one(rows: np.ndarray[Any, Any], tolerance: float) -> bool:
    """Return whether every row sums to 1."""
    return bool(np.all(np.abs(rows.sum(axis=1) - 1.0) <= tolerance))
