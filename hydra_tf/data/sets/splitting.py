"""Fixed stratified splits of data in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hydra_tf.core.lazy import tf
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.fingerprint import array_hash
from hydra_tf.data.passes import shuffled
from hydra_tf.data.source import Source

# The splits of published results must not change, so the seed is part of the data set. Only
# RandomState, of NumPy's generators, guarantees the same stream in every version.
_SPLIT_SEED = 2020


def stratified_order(labels: np.ndarray) -> npt.NDArray[np.int64]:
    """Return a fixed permutation in which every slice is stratified.

    Each class is shuffled and then distributed evenly over the whole length. Hence the splits are
    stratified, and so are the first images of a split.

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
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, position))


def check_shares(validation: float, test: float) -> None:
    """Check that the shares of validation and test leave images to train on.

    Args:
        validation: the parameter ``validation_share``.
        test: the parameter ``test_share``.

    Raises:
        ValueError: for a share out of range.

    Example:
        >>> check_shares(0.1, 0.2)
    """
    for name, share in (("validation_share", validation), ("test_share", test)):
        if not 0 <= share < 1:
            raise ValueError(
                f"{name} must be a share of the images from 0 to below 1, not {share}."
            )
    if validation + test >= 1:
        raise ValueError(
            f"validation_share={validation} and test_share={test} leave no images to train on."
        )


def share_sizes(total: int, *shares: float) -> list[int]:
    """Return the number of images of each share, at least one unless the share is 0.

    Args:
        total: number of images.
        *shares: shares of the images, from 0 to below 1.

    Example:
        >>> share_sizes(8, 0.1, 0.25, 0.0)
        [1, 2, 0]
    """
    return [max(1, round(total * share)) if share else 0 for share in shares]


def split_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    validation: int,
    test: int,
    augment: Augment | None = None,
) -> Source:
    """Return stratified splits that are the same in every run.

    Args:
        images: [n, height, width, channels], uint8 in [0, 255] or float32 in [0, 1].
        labels: [n] classes, numbered from 0.
        validation: number of validation images.
        test: number of test images; the others are for training.
        augment: augmentation of training batches.

    Raises:
        ValueError: when no images are left to train on.

    Example:
        >>> source = split_arrays(np.zeros((10, 2, 2, 1), "uint8"), np.arange(10) % 2, 2, 2)
        >>> int(source.train.cardinality()), int(source.test.cardinality())
        (6, 2)
    """
    train = len(labels) - validation - test
    if train < 1:
        raise ValueError(
            f"{validation} validation and {test} test images leave none of {len(labels)} to train "
            "on; choose fewer."
        )
    order = stratified_order(labels)
    with tf.device("CPU"):  # tf.data reads from there, and it saves device memory
        table, targets, indices = tf.constant(images), tf.constant(labels), tf.constant(order)

    def examples(split: npt.NDArray[np.int64]) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(split).map(
            lambda index: (table[index], targets[index])
        )

    def gather_batch(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = tf.gather(indices, positions)
        return tf.gather(table, batch), tf.gather(targets, batch)

    return Source(
        train=examples(order[:train]),
        validation=examples(order[train : train + validation]),
        test=examples(order[train + validation :]),
        num_classes=int(labels.max()) + 1,
        augment=augment,
        # Shuffles positions, since a shuffle buffer of images would be a second copy.
        order=lambda seeds: shuffled(tf.data.Dataset.range(train), train, seeds),
        gather_batch=gather_batch,
        fingerprint=lambda: array_hash(table, targets),
    )
