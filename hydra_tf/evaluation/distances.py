"""The smallest adversarial distance of each image, and robust accuracy at every epsilon."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hydra_tf.attacks.base import attack_name, run_attack, smallest_change_attack
from hydra_tf.attacks.norms import lengths
from hydra_tf.checks.models import network_of
from hydra_tf.core.files import replacing
from hydra_tf.core.types import Classifier
from hydra_tf.evaluation.accuracy import (
    Array,
    UnderEach,
    as_dataset,
    checked_batches,
    correct_on,
    joined_gradients,
    warn_of_missing_gradients,
)
from hydra_tf.evaluation.progress import ProgressBar, batch_count

DEFAULT_ATTACK = "fmn"
_ANY_LENGTH = {"linf": 1.0, "l2": 1e9}  # an epsilon that no change of an image in [0, 1] reaches


class Distances(NamedTuple):
    """The smallest adversarial distances that an attack found.

    Args:
        labels: [samples] integer labels.
        values: [samples] distances in the norm of the attack, in pixel values; 0 for an image that
            is misclassified, infinite for one that the attack did not break.

    Example:
        >>> found = Distances(np.array([7, 3]), np.array([0.25, np.inf]))
        >>> robust_accuracy_curve(found.values, [0.1, 0.3]).tolist()
        [1.0, 0.5]
    """

    labels: Array
    values: Array


def labelled_distances(
    model: Classifier,
    data: Any,
    attack: Any = DEFAULT_ATTACK,
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> Distances:
    """Return the smallest adversarial distances and the labels, in the order of the data.

    Arguments and errors as in :func:`minimal_distances`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> data = np.zeros((3, 2), "float32"), np.array([0, 1, 1])
        >>> labelled_distances(net, data, "fmn:steps=2").labels.tolist()
        [0, 1, 1]
    """
    attack = smallest_change_attack(attack)
    unlimited = replace(attack, epsilon=_ANY_LENGTH[attack.norm])
    model = network_of(model)
    data = as_dataset(data, batch_size)
    bar = ProgressBar(batch_count(data), "median distance", verbose, attack_name(attack))
    labels, values, gradients = [], [], []
    for i, (x, y) in enumerate(checked_batches(model, data)):
        perturbed = run_attack(unlimited, model, x, y, tf.constant([seed, i]))
        change = tf.reshape(lengths(perturbed.images - x, attack.norm), [-1]).numpy()
        change[correct_on(model, perturbed.images, y)] = np.inf
        change[~correct_on(model, x, y)] = 0.0
        labels.append(y.numpy())
        values.append(change)
        gradients.append(perturbed.gradients)
        bar.show(i + 1, float(np.median(np.concatenate(values))))
    if not values:
        raise ValueError("The dataset is empty: there is nothing to measure.")
    result = Distances(np.concatenate(labels), np.concatenate(values))
    attacked = UnderEach((result.values > 0)[None], [joined_gradients(gradients)])
    warn_of_missing_gradients(attack, attacked.gradient_shares(0))
    return result


def minimal_distances(
    model: Classifier,
    data: Any,
    attack: Any = DEFAULT_ATTACK,
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> Array:
    """Return the smallest adversarial distance that an attack finds for each image.

    It is an upper bound of the distance to the nearest image, in [0, 1], that is misclassified.

    Args:
        model: Keras model that outputs logits.
        data: tf.data.Dataset of (images, labels) batches, or a pair of arrays.
        attack: attack that looks for the smallest change, such as ``"fmn:norm=linf,steps=100"``;
            its epsilon has no effect.
        seed: seed of the attack; batch i uses the pair (seed, i).
        batch_size: batch size for arrays.
        verbose: 1 shows a progress bar.

    Returns:
        [samples] float32 distances in the norm of the attack, in pixel values: 0 for an image that
        is misclassified, infinite if the attack did not break it.

    Raises:
        ValueError: for an attack that does not look for the smallest change, and as
            :func:`hydra_tf.evaluation.correct_under`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
        >>> net.set_weights([np.array([[0.0, 1.0]]), np.array([0.5, 0.0])])  # class 1 above 0.5
        >>> images = np.array([[0.2], [0.4], [0.9]], "float32")
        >>> minimal_distances(net, (images, np.zeros(3, int)), "fmn").round(2).tolist()
        [0.30000001192092896, 0.10000000149011612, 0.0]
    """
    options = {"seed": seed, "batch_size": batch_size, "verbose": verbose}
    return labelled_distances(model, data, attack, **options).values


def robust_accuracy_curve(distances: Any, epsilons: Sequence[float] | Array) -> Array:
    """Return the robust accuracy at each epsilon: the share of images farther from an attack.

    Args:
        distances: [samples] of :func:`minimal_distances`.
        epsilons: radii, in the units of the distances.

    Returns:
        [epsilons] shares in [0, 1]; the first at epsilon 0 is the benign accuracy.

    Raises:
        ValueError: without distances, or for distances or radii that are negative or not numbers.

    Example:
        >>> robust_accuracy_curve([0.0, 0.1, 0.3, np.inf], [0.0, 0.1, 0.2, 0.3]).tolist()
        [0.75, 0.5, 0.5, 0.25]
    """
    values, radii = np.asarray(distances, "float64"), np.asarray(epsilons, "float64")
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"The distances must be a list of at least one number, not of shape {values.shape}."
        )
    for name, numbers in (("distances", values), ("epsilons", radii)):
        if not (numbers >= 0).all():
            raise ValueError(f"The {name} must be numbers of at least 0.")
    # Nearest images lie at the distance itself, within the closed ball.
    broken = np.searchsorted(np.sort(values), radii, side="right")
    shares: Array = (len(values) - broken) / len(values)
    return shares


def write_distances(path: str | os.PathLike[str], distances: Distances) -> None:
    """Write a CSV file with the columns index, label and distance, one image in each line.

    Args:
        path: the file.
        distances: labels and distances; an infinite one is written as ``inf``.

    Example:
        >>> import pathlib, tempfile
        >>> target = pathlib.Path(tempfile.mkdtemp(), "distances.csv")
        >>> write_distances(target, Distances(np.array([7, 3]), np.array([0.25, np.inf])))
        >>> target.read_text().splitlines()
        ['index,label,distance', '0,7,0.25', '1,3,inf']
    """
    with replacing(path, ".csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "label", "distance"])
        for i, (label, value) in enumerate(zip(*distances, strict=True)):
            writer.writerow([i, int(label), f"{value:.9g}"])
