"""Verified accuracy: the share of images proven correct on their whole Linf ball."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hydra_tf import bounds
from hydra_tf.checks.models import network_of
from hydra_tf.core.types import require_linf_radius
from hydra_tf.evaluation.accuracy import as_dataset, checked_batches
from hydra_tf.evaluation.progress import ProgressBar, batch_count


def verified_under(
    model: keras.Model,
    data: Any,
    epsilon: float,
    method: Any = "crown_ibp",
    *,
    batch_size: int = 256,
    verbose: int = 0,
) -> np.ndarray[Any, Any]:
    """Return which samples are proven correct on their whole Linf ball in [0, 1].

    A sample is proven correct if the lower bounds of all its margins f_y - f_j, j != y, are above
    0.

    Args:
        model: functional or Sequential Keras model that outputs logits, masked or not.
        data: tf.data.Dataset of (images, labels) batches, or a pair of arrays; pixels that lie
            outside [0, 1] by rounding, up to 1e-6, are clipped.
        epsilon: radius of the ball in units of pixel values in [0, 1].
        method: ``"ibp"``, ``"crown_ibp"``, ``"crown"``, ``"symbolic"`` or ``"tightest"``, with
            or without parameters; see :func:`hydra_tf.bounds.margin_lower_bound`.
        batch_size: batch size for arrays.
        verbose: 1 shows a progress bar.

    Returns:
        [samples] booleans.

    Raises:
        TypeError: an epsilon that is not a number.
        ValueError: an epsilon that is negative or larger than the range of pixel values, an
            unknown method, a layer without a rule, a model that ends in a softmax, images
            outside [0, 1], labels out of range, a dataset that is empty or endless.

    Example:
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[0.0, 1.0]])])  # f_1 - f_0 = x
        >>> data = np.array([[0.5], [0.25]]), np.array([1, 1])
        >>> verified_under(net, data, 0.3, "ibp").tolist()
        [True, False]
    """
    require_linf_radius(epsilon)
    model, bound = network_of(model), bounds.build(method)
    data = as_dataset(data, batch_size)
    bar = ProgressBar(batch_count(data), "verified", verbose, f"epsilon={epsilon:g}")
    results: list[np.ndarray[Any, Any]] = []
    for i, (x, y) in enumerate(checked_batches(model, data)):
        margins = bounds.margin_lower_bound(model, x, y, epsilon, bound).numpy()
        others = np.arange(margins.shape[1]) != y.numpy()[:, None]
        results.append(np.all((margins > 0) | ~others, axis=1))
        bar.show(i + 1, np.mean(np.concatenate(results)))
    if not results:
        raise ValueError("The dataset is empty: there is nothing to verify.")
    return np.concatenate(results)


def verified_accuracy(
    model: keras.Model,
    data: Any,
    epsilon: float,
    method: Any = "crown_ibp",
    *,
    batch_size: int = 256,
    verbose: int = 0,
) -> float:
    """Return the share of images that are proven correct on their whole Linf ball.

    With ``"symbolic"`` this is VRA-m of arXiv 2002.10509 (section 4), with ``"ibp"`` and
    ``"crown_ibp"`` VRA-t. Arguments and errors as in :func:`verified_under`.

    Example:
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[0.0, 1.0]])])
        >>> verified_accuracy(net, (np.array([[0.5], [0.25]]), np.array([1, 1])), 0.3, "ibp")
        0.5
    """
    options = {"batch_size": batch_size, "verbose": verbose}
    return float(np.mean(verified_under(model, data, epsilon, method, **options)))
