"""Benign and empirical robust accuracy over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from hydra_tf import attacks
from hydra_tf.attacks.base import attack_name, run_attack
from hydra_tf.attacks.gradients import MISSING, RESCUED, missing_gradients
from hydra_tf.checks.batches import check_use
from hydra_tf.checks.labels import sparse_labels
from hydra_tf.checks.models import network_of
from hydra_tf.core.pixels import clipped_pixels
from hydra_tf.core.types import Classifier, Images, Labels
from hydra_tf.evaluation.progress import ProgressBar, batch_count

Array = np.ndarray[Any, Any]

DEFAULT_ATTACK = "pgd:steps=50,restarts=10"


def as_dataset(data: Any, batch_size: int) -> tf.data.Dataset:
    """Return data as a dataset of batches of images and labels.

    Args:
        data: tf.data.Dataset of (images, labels) batches, or two arrays.
        batch_size: batch size for arrays.

    Raises:
        ValueError: for an endless dataset, elements that are not pairs, arrays of unequal length.

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
        x, y = (np.asarray(array) for array in data)
        if len(x) != len(y):
            raise ValueError(f"There are {len(x)} images but {len(y)} labels.")
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset repeats endlessly; remove repeat(), or limit it with take().")
    if not isinstance(data.element_spec, tuple) or len(data.element_spec) != 2:
        raise ValueError("The dataset must yield pairs of (images, labels).")
    return data


def checked_batches(model: Classifier, data: tf.data.Dataset) -> Iterator[tuple[Images, Labels]]:
    """Yield checked batches of images, clipped to [0, 1], and integer labels.

    Args:
        model: Keras model that outputs logits.
        data: batches of images and labels, integers or one-hot.

    Raises:
        ValueError: images outside [0, 1] or of the wrong shape, labels out of range.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> data = as_dataset((np.zeros((1, 2)), np.array([[0, 1, 0]])), 1)
        >>> [y.numpy().tolist() for _, y in checked_batches(net, data)]
        [[1]]
    """
    for x, y in data:
        check_use(model, x, y)
        yield clipped_pixels(x), sparse_labels(y)


class UnderEach(NamedTuple):
    """The result of several attacks on the same samples.

    Args:
        correct: [1 + attacks, samples] booleans: correct on the image, then correct on the image
            and under each attack.
        gradients: for each attack, the [samples] best gradients that it found (see
            :class:`hydra_tf.attacks.gradients.Perturbed`), or None if that is not known.
    """

    correct: Array
    gradients: list[Array | None]

    def gradient_shares(self, i: int) -> dict[str, float]:
        """Return shares of the images that are correct without an attack, under attack i.

        Returns:
            ``zero_gradient_share``: at every step, the gradient of the attack's loss was zero or
            not finite. ``rescued_gradient_share``: the same, but there was a gradient on
            rescaled logits. Empty if nothing is known of the gradients.

        Example:
            >>> correct = np.array([[True, True, False], [True, False, False]])
            >>> UnderEach(correct, [np.array([1, 3, 1])]).gradient_shares(0)
            {'zero_gradient_share': 0.5, 'rescued_gradient_share': 0.0}
        """
        gradients, attacked = self.gradients[i], self.correct[0]
        if gradients is None:
            return {}
        count = max(1, int(np.sum(attacked)))
        missing, rescued = (int(np.sum(gradients[attacked] == k)) for k in (MISSING, RESCUED))
        return {
            "zero_gradient_share": (missing + rescued) / count,
            "rescued_gradient_share": rescued / count,
        }


def correct_under_each(
    model: Classifier,
    data: Any,
    attack_list: Sequence[Callable[..., Images]],
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> UnderEach:
    """Return which samples are correct, first on the benign images, then under each attack.

    Warn of attacks that found no gradient for more than 1% of the images.

    Args:
        model: Keras model that outputs logits.
        data: tf.data.Dataset of (images, labels) batches, shuffled or not, or a pair of arrays.
        attack_list: attacks, callables ``(model, x, y, seed) -> x_adv``.
        seed: seed of the attacks; batch i uses the pair (seed, i).
        batch_size: batch size for arrays.
        verbose: 1 shows a progress bar.

    Returns:
        Which samples are correct, and the gradients. A sample with a NaN logit is not correct.

    Raises:
        ValueError: as :func:`correct_under`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> data = np.zeros((3, 2), "float32"), np.zeros(3, int)
        >>> correct_under_each(net, data, []).correct.shape
        (1, 3)
    """
    model = network_of(model)
    data = as_dataset(data, batch_size)
    # The bar shows the accuracy under the last attack.
    title = attack_name(attack_list[-1]) if attack_list else ""
    bar = ProgressBar(batch_count(data), "accuracy", verbose, title)
    results: list[Array] = []
    gradients: list[list[Any]] = [[] for _ in attack_list]
    for i, (x, y) in enumerate(checked_batches(model, data)):
        rows = [correct_on(model, x, y)]
        for attack, found in zip(attack_list, gradients, strict=True):
            perturbed = run_attack(attack, model, x, y, tf.constant([seed, i]))
            rows.append(rows[0] & correct_on(model, perturbed.images, y))
            found.append(perturbed.gradients)
        results.append(np.stack(rows))
        bar.show(i + 1, np.mean(np.concatenate(results, axis=1)[-1]))
    if not results:
        raise ValueError("The dataset is empty: there is nothing to measure.")
    joined = [joined_gradients(found) for found in gradients]
    measured = UnderEach(np.concatenate(results, axis=1), joined)
    for i, attack in enumerate(attack_list):
        warn_of_missing_gradients(attack, measured.gradient_shares(i))
    return measured


def joined_gradients(batches: Sequence[Any]) -> Array | None:
    """Return the gradients that an attack found, of all batches; None if those of one are unknown.

    Args:
        batches: `gradients` of :class:`hydra_tf.attacks.gradients.Perturbed` for each batch.

    Example:
        >>> joined_gradients([np.array([3, 1]), np.array([3])]).tolist()
        [3, 1, 3]
    """
    return None if any(batch is None for batch in batches) else np.concatenate(batches)


def warn_of_missing_gradients(attack: Callable[..., Images], shares: Mapping[str, float]) -> None:
    """Log a warning if an attack found no gradient for too many images.

    Args:
        attack: the attack.
        shares: as of :meth:`UnderEach.gradient_shares`.
    """
    if shares and (sentence := missing_gradients(attack_name(attack), *shares.values())):
        logging.warning("%s", sentence)


def correct_on(model: Classifier, x: Images, y: Labels) -> Array:
    """Return [batch] booleans: the label has the largest logit, and no logit is NaN.

    Args:
        model: a Keras model that outputs logits.
        x: [batch, ...] images.
        y: [batch] int32 labels.

    Example:
        >>> correct_on(lambda x, training: x, tf.constant([[0.2, 0.7]]), tf.constant([1]))
        array([ True])
    """
    logits = model(x, training=False)
    right = tf.argmax(logits, axis=-1, output_type=tf.int32) == y
    result: Array = (right & ~tf.reduce_any(tf.math.is_nan(logits), axis=-1)).numpy()
    return result


def correct_under(
    model: Classifier,
    data: Any,
    attack: Any = None,
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> Array:
    """Return which samples are classified correctly, also under an attack if one is given.

    Args:
        model: Keras model that outputs logits.
        data: tf.data.Dataset of (images, labels) batches, or a pair of arrays; pixels that lie
            outside [0, 1] by rounding, up to 1e-6, are clipped.
        attack: attack spec such as ``"pgd:epsilon=8/255,steps=50,restarts=10"``, an attack,
            or None for the benign images only.
        seed: seed of the attack; batch i uses the pair (seed, i).
        batch_size: batch size for arrays.
        verbose: 1 shows a progress bar.

    Returns:
        [samples] booleans.

    Raises:
        ValueError: a model that ends in a softmax, images outside [0, 1], labels out of
            range, an unknown attack, a dataset that is empty or endless.
        TypeError: data without labels.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> data = np.zeros((3, 2), "float32"), np.zeros(3, int)
        >>> correct_under(net, data, "fgsm:epsilon=0.0").shape
        (3,)
    """
    attack_list = [] if attack is None else [attacks.build(attack)]
    options = {"seed": seed, "batch_size": batch_size, "verbose": verbose}
    result: Array = correct_under_each(model, data, attack_list, **options).correct[-1]
    return result


def accuracy(model: Classifier, data: Any, *, batch_size: int = 256, verbose: int = 0) -> float:
    """Return the share of benign images that the model classifies correctly.

    Arguments and errors as in :func:`correct_under`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> accuracy(net, (np.zeros((3, 2), "float32"), np.zeros(3, int)))
        1.0
    """
    return float(np.mean(correct_under(model, data, batch_size=batch_size, verbose=verbose)))


def robust_accuracy(
    model: Classifier,
    data: Any,
    attack: Any = DEFAULT_ATTACK,
    *,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> float:
    """Return the share of images that the model classifies correctly under an attack.

    A sample counts only if the unperturbed image is classified correctly too. There is a warning
    if the attack found no gradient for more than 1% of the images, because an attack that does not
    move says nothing about robustness; see :mod:`hydra_tf.attacks.gradients`.

    Arguments and errors as in :func:`correct_under`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> robust_accuracy(net, (np.zeros((3, 2), "float32"), np.ones(3, int)), "fgsm:epsilon=0.1")
        0.0
    """
    options = {"seed": seed, "batch_size": batch_size, "verbose": verbose}
    return float(np.mean(correct_under(model, data, attack, **options)))
