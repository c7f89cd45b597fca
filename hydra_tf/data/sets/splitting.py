"""Splitting data that fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hydra_tf.core.lazy import tf
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.passes import shuffled
from hydra_tf.data.source import Source

# The splits of a published result must never change: the seed is part of the data set, and
# of NumPy's generators only RandomState promises the same stream in every version.
_SPLIT_SEED = 2020


def stratified_order(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return a fixed permutation of which every stretch holds the classes in proportion.

    Each class is shuffled and then spread evenly over the whole length, so that any slice
    is stratified: the splits are, and so are the first images of a split.

    Args:
        labels: [n] class of each sample.

    Returns:
        [n] indices.

    Example:
        >>> order = stratified_order(np.array([0, 0, 0, 0, 1, 1, 1, 1]))
        >>> np.array([0, 0, 0, 0, 1, 1, 1, 1])[order].tolist()
        [0, 1, 0, 1, 0, 1, 0, 1]
    """
    generator = np.random.RandomState(_SPLIT_SEED)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, place))


def check_shares(validation: float, test: float) -> None:
    """Refuse shares of validation and test that leave nothing to train on.

    Args:
        validation: the parameter ``validation_share``.
        test: the parameter ``test_share``.

    Raises:
        ValueError: naming the parameter.

    Example:
        >>> check_shares(0.1, 0.2)
    """
    for name, share in (("validation_share", validation), ("test_share", test)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is a share of the images from 0 to below 1, not {share}.")
    if validation + test >= 1:
        raise ValueError(
            f"validation_share={validation} and test_share={test} leave no image to train on."
        )


def parts_of(total: int, *shares: float) -> list[int]:
    """Return how many of `total` images each share is, at least one unless it is 0.

    Args:
        total: number of images.
        *shares: shares from 0 to below 1.

    Example:
        >>> parts_of(8, 0.1, 0.25, 0.0)
        [1, 2, 0]
    """
    return [max(1, round(total * share)) if share else 0 for share in shares]


def split_arrays(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    validation: int,
    test: int,
    augment: Augment | None = None,
) -> Source:
    """Return a stratified split that is the same in every run.

    Args:
        images: [n, height, width, channels], uint8 in [0, 255] or float32 in [0, 1].
        labels: [n] classes from 0 on.
        validation: number of validation images.
        test: number of test images; the rest is for training.
        augment: augmentation of training batches.

    Raises:
        ValueError: when no image is left to train on.

    Example:
        >>> source = split_arrays(np.zeros((10, 2, 2, 1), "uint8"), np.arange(10) % 2, 2, 2)
        >>> int(source.train.cardinality()), int(source.test.cardinality())
        (6, 2)
    """
    train = len(labels) - validation - test
    if train < 1:
        raise ValueError(
            f"{validation} validation and {test} test images leave none of {len(labels)} to train "
            "on; ask for fewer."
        )
    order = stratified_order(labels)
    with tf.device("CPU"):  # where tf.data reads, and where memory is not the network's
        table, targets, places = tf.constant(images), tf.constant(labels), tf.constant(order)

    def examples(part: npt.NDArray[np.int64]) -> tf.data.Dataset:
        indices = tf.data.Dataset.from_tensor_slices(part)
        return indices.map(lambda index: (table[index], targets[index]))

    def look_up(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        indices = tf.gather(places, batch)
        return tf.gather(table, indices), tf.gather(targets, indices)

    return Source(
        train=examples(order[:train]),
        validation=examples(order[train : train + validation]),
        test=examples(order[train + validation :]),
        num_classes=int(labels.max()) + 1,
        augment=augment,
        # Places are shuffled, not images, which would stand in the buffer a second time.
        order=lambda seeds: shuffled(tf.data.Dataset.range(train), train, seeds),
        look_up=look_up,
    )
