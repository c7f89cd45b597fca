"""Checks that a model outputs logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from absl import logging

from hydra_tf.checks.probabilities import (
    in_unit_interval,
    probability_layer,
    sigmoid_layer,
    stays_in_unit_interval,
)
from hydra_tf.core.keras_models import wrapped_network


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
    if isinstance(getattr(net, "output", None), dict):
        names = ", ".join(repr(name) for name in net.output)
        raise ValueError(
            f"The output of the model is a dictionary ({names}), but robust training and attacks "
            "need one output, the logits; choose it with hydra_tf.models.select_output(model, "
            f"{next(iter(net.output), None)!r}) or RobustModel(output=...)."
        )
    for what in ("inputs", "outputs"):
        count = len(getattr(net, what, None) or [None])
        if count != 1:
            raise ValueError(
                f"The model has {count} {what}, but robust training and attacks need one input, "
                "the images, and one output, the logits; pass keras.Model(images, logits), or "
                "choose an output with hydra_tf.models.select_output."
            )
    last = probability_layer(model)
    if last is not None:
        raise ValueError(_ends_in_probabilities(last))


def _ends_in_probabilities(layer: Any) -> str:
    return (
        f'The model ends in probabilities (layer "{layer.name}"), but robust losses and '
        "attacks need logits; remove this layer, or its activation."
    )


def check_unbounded(model: Any, x: Any, outputs: Any) -> None:
    """Check that outputs are not those of a sigmoid that :func:`require_logits` cannot know.

    Args:
        model: a Keras model or another callable ``(x, training) -> outputs``.
        x: [batch, ...] images.
        outputs: [batch, classes] outputs on these images.

    Raises:
        ValueError: if the last layer computes a sigmoid. If only the values of the outputs
            suggest it, a warning is logged instead.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> x = np.ones((1, 2))
        >>> check_unbounded(net, x, net(x))
    """
    if not in_unit_interval(outputs):
        return
    last = sigmoid_layer(model, outputs.shape[-1])
    if last is not None:
        raise ValueError(_ends_in_probabilities(last))
    if stays_in_unit_interval(model, x):
        logging.warning(
            "hydra_tf: the outputs of the model lie in [0, 1] even for very large inputs, as those "
            "of a sigmoid do, but robust losses and attacks need logits; if they are "
            "probabilities, remove the sigmoid from the model."
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
    if rows.ndim == 2 and rows.shape[1] == 1:
        raise ValueError(
            "The model outputs one number for each image, but robust losses and attacks need the "
            "logits of at least 2 classes; for two classes by one logit z, append "
            "keras.layers.Concatenate()([0 * z, z])."
        )
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
