"""Benign and empirical robust accuracy over a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf import attacks
from hydra_tf.checks.batches import check_use
from hydra_tf.checks.labels import sparse_labels
from hydra_tf.checks.models import network_of

DEFAULT_ATTACK = "pgd:steps=50,restarts=10"


def as_dataset(data: Any, batch_size: int) -> tf.data.Dataset:
    """Return batches of images and labels.

    Args:
        data: tf.data.Dataset of (images, labels) batches, or two arrays.
        batch_size: batch size for arrays.

    Raises:
        ValueError: for a data set without end or of other elements, arrays of two lengths.

    Example:
        >>> int(as_dataset((np.zeros((3, 2)), np.zeros(3, int)), 2).cardinality())
        2
    """
    if not isinstance(data, tf.data.Dataset):
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise TypeError(
                "The data must be a tf.data.Dataset of (images, labels) batches or a pair of "
                f"arrays, (images, labels), not {type(data).__name__}."
            )
        x, y = (np.asarray(part) for part in data)
        if len(x) != len(y):
            raise ValueError(f"There are {len(x)} images but {len(y)} labels.")
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The data set repeats without end; leave repeat() out or take() a part.")
    if not isinstance(data.element_spec, tuple) or len(data.element_spec) != 2:
        raise ValueError("The data set must yield pairs of (images, labels).")
    return data


def checked_batches(model: Any, data: tf.data.Dataset) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yield checked batches of images and integer labels.

    Args:
        model: Keras model that outputs logits.
        data: batches of images and labels, integers or one-hot.

    Raises:
        ValueError: images outside [0, 1] or of the wrong shape, labels out of range.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> data = as_dataset((np.zeros((1, 2)), np.array([[0, 1, 0]])), 1)
        >>> [y.numpy().tolist() for _, y in checked_batches(net, data)]
        [[1]]
    """
    for x, y in data:
        check_use(model, x, y)
        yield tf.cast(x, tf.float32), sparse_labels(y)


def correct_under_each(
    model: Any,
    data: Any,
    built: Sequence[Any],
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> np.ndarray[Any, Any]:
    """Return which samples the model gets right, benign and under each attack, in one pass.

    Args:
        model: Keras model that outputs logits.
        data: tf.data.Dataset of (images, labels) batches, shuffled or not, or two arrays.
        built: attacks; callables ``(model, x, y, seed) -> x_adv``.
        seed: seed of the attacks; batch i uses the pair (seed, i).
        batch_size: batch size for arrays.
        verbose: 1 shows a progress bar.

    Returns:
        [1 + attacks, samples] booleans: right on the image, then right on the image and
        under each attack. Logits that are not numbers are never right.

    Raises:
        ValueError: as :func:`correct_under`.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> correct_under_each(net, (np.zeros((3, 2), "float32"), np.zeros(3, int)), []).shape
        (1, 3)
    """
    model = network_of(model)
    data = as_dataset(data, batch_size)
    length = int(data.cardinality()) if int(data.cardinality()) > 0 else None
    bar = keras.utils.Progbar(length, verbose=verbose, stateful_metrics=["accuracy"])
    results: list[np.ndarray[Any, Any]] = []
    for i, (x, y) in enumerate(checked_batches(model, data)):
        rows = [_right(model, x, y)]
        for attack in built:
            x_adv = attack(model, x, y, seed=tf.constant([seed, i]))
            rows.append(rows[0] & _right(model, x_adv, y))
        results.append(np.stack(rows))
        bar.update(i + 1, [("accuracy", np.mean(np.concatenate(results, axis=1)[-1]))])
    if not results:
        raise ValueError("The data set is empty: there is nothing to measure.")
    return np.concatenate(results, axis=1)


def _right(model: Any, x: tf.Tensor, y: tf.Tensor) -> np.ndarray[Any, Any]:
    """[batch] booleans: the largest logit is the label's, and all logits are numbers."""
    logits = model(x, training=False)
    right = tf.argmax(logits, axis=-1, output_type=tf.int32) == y
    result: np.ndarray[Any, Any] = (right & ~tf.reduce_any(tf.math.is_nan(logits), axis=-1)).numpy()
    return result


def correct_under(
    model: Any,
    data: Any,
    attack: Any = None,
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> np.ndarray[Any, Any]:
    """Return for each sample whether the model is right, under an attack too if one is given.

    Args:
        model: Keras model that outputs logits.
        data: tf.data.Dataset of (images, labels) batches, or a pair of arrays.
        attack: attack spec such as ``"pgd:epsilon=8/255,steps=50,restarts=10"``, an attack,
            or None for the benign images alone.
        seed: seed of the attack; batch i uses the pair (seed, i).
        batch_size: batch size for arrays.
        verbose: 1 shows a progress bar.

    Returns:
        [samples] booleans.

    Raises:
        ValueError: a model that ends in a softmax, images outside [0, 1], labels out of
            range, an unknown attack, a data set that is empty or has no end.
        TypeError: data without labels.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> data = np.zeros((3, 2), "float32"), np.zeros(3, int)
        >>> correct_under(net, data, "fgsm:epsilon=0.0").shape
        (3,)
    """
    built = [] if attack is None else [attacks.build(attack)]
    how = {"seed": seed, "batch_size": batch_size, "verbose": verbose}
    return correct_under_each(model, data, built, **how)[-1]


def accuracy(model: Any, data: Any, *, batch_size: int = 256, verbose: int = 0) -> float:
    """Return the share of benign images that the model classifies rightly.

    Arguments and errors as in :func:`correct_under`.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> accuracy(net, (np.zeros((3, 2), "float32"), np.zeros(3, int)))
        1.0
    """
    return float(np.mean(correct_under(model, data, batch_size=batch_size, verbose=verbose)))


def robust_accuracy(
    model: Any,
    data: Any,
    attack: Any = DEFAULT_ATTACK,
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> float:
    """Return the share of images that the model classifies rightly under an attack.

    A sample counts only if the model is right on the image itself too.

    Arguments and errors as in :func:`correct_under`.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> robust_accuracy(net, (np.zeros((3, 2), "float32"), np.ones(3, int)), "fgsm:epsilon=0.1")
        0.0
    """
    how = {"seed": seed, "batch_size": batch_size, "verbose": verbose}
    return float(np.mean(correct_under(model, data, attack, **how)))
