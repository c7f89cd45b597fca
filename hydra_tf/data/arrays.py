"""Splitting data that fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hydra_tf._lazy import tf
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.base import Source

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
    parts = np.split(order, [train, train + validation])
    examples = [tf.data.Dataset.from_tensor_slices((images[part], labels[part])) for part in parts]
    return Source(
        train=examples[0],
        validation=examples[1],
        test=examples[2],
        num_classes=int(labels.max()) + 1,
        augment=augment,
    )
