"""One's own images: a folder for each class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.data.decoding import UNREADABLE, Decoder, Unreadable, attempt, check_size
from hydra_tf.data.passes import shuffled
from hydra_tf.data.sets.base import DATASETS, DataSet
from hydra_tf.data.sets.listing import Listing, class_names, has_splits, list_images
from hydra_tf.data.sets.splitting import check_shares, parts_of, stratified_order
from hydra_tf.data.source import Source

# So many unreadable files in a row are no accident: the disk is gone, say.
_TRIES = 1000


@DATASETS.register()
@dataclass(frozen=True)
class Folder(DataSet):
    """JPEG, PNG, BMP and GIF images (the first frame), one folder for each class.

    Either the folder holds ``train``, ``test`` and perhaps ``validation``, each with a folder
    for each class, or it holds the class folders itself and is split, the same in every run and
    stratified. The classes are numbered in the order of their names. Training images are cut at
    random, validation and test images at the centre; see
    :class:`hydra_tf.data.decoding.Decoder`. Files are opened when their turn comes. One that
    holds no whole image is replaced by the next good one of its split, and named in a warning
    at the end of the pass; ``sizes`` counts it.

    Args:
        crop: pixels of random shift on top of the cut, see :class:`DataSet`.
        flip: mirror training images at random.
        path: the folder.
        size: height and width that images are resized to.
        channels: 3, or 1 for grey levels.
        validation_share: share of the images (of the training images, where the splits are
            folders) kept for validation, unless they have a folder.
        test_share: share of the images kept for the test, unless they have a folder.

    Example:
        >>> Folder(path="/data/mine", size=64).channels
        3
    """

    flip: bool = True
    path: str = ""
    size: int = 224
    channels: Literal[1, 3] = 3
    validation_share: float = 0.1
    test_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)
        check_shares(self.validation_share, self.test_share)

    def __call__(self) -> Source:
        """List the images; see :class:`DataSet`.

        Raises:
            FileNotFoundError: when there is no such folder.
            ValueError: when it holds no images, fewer than two classes, or a class without any.
        """
        if not self.path:
            raise ValueError(
                'The data set "folder" needs the path of the images: folder:path=/data/mine.'
            )
        classes, files, parts = self._parts(os.path.expanduser(self.path))
        unreadable = Unreadable()
        successors = np.concatenate([np.roll(part, -1) for part in parts])
        following = np.empty(len(files.paths), np.int64)
        following[np.concatenate(parts)] = successors
        examples = [tf.data.Dataset.from_tensor_slices(part) for part in parts]
        train = len(parts[0])
        return Source(
            train=examples[0],
            validation=examples[1],
            test=examples[2],
            num_classes=len(classes),
            augment=self.augmentation(),
            decode=_decode(files, following, Decoder(self.size, self.channels), unreadable),
            order=lambda seeds: shuffled(examples[0], train, seeds),
            unreadable=unreadable,
        )

    def _parts(self, path: str) -> tuple[tuple[str, ...], Listing, list[Any]]:
        """The class names, all files, and the indices of the files of each split."""
        if not has_splits(path):
            classes = class_names(path)
            files = list_images(path, classes)
            order = stratified_order(files.labels)
            validation, test = parts_of(len(order), self.validation_share, self.test_share)
            train = max(0, len(order) - validation - test)
            return classes, files, np.split(order, [train, train + validation])
        classes = class_names(os.path.join(path, "train"))
        found = {
            split: list_images(os.path.join(path, split), classes)
            for split in ("train", "validation", "test")
            if os.path.isdir(os.path.join(path, split))
        }
        files = Listing(
            tuple(name for part in found.values() for name in part.paths),
            np.concatenate([part.labels for part in found.values()]),
        )
        starts = np.cumsum([len(part.labels) for part in found.values()])[:-1]
        parts = np.split(np.arange(len(files.labels)), starts)
        if "validation" not in found:
            order = stratified_order(found["train"].labels)
            train = len(order) - parts_of(len(order), self.validation_share)[0]
            parts = [order[:train], order[train:], parts[1]]
        return classes, files, parts


def _decode(files: Listing, following: Any, decoder: Decoder, unreadable: Unreadable) -> Any:
    """The function from a file's index to image and label."""
    with tf.device("CPU"):
        paths, labels = tf.constant(files.paths), tf.constant(files.labels)
        successors = tf.constant(following)
    tries = min(len(files.paths), _TRIES)

    def read(index: tf.Tensor, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        def whole() -> tuple[tf.Tensor, tf.Tensor]:
            return decoder(tf.io.read_file(paths[index]), seed), labels[index]

        return attempt(whole, decoder, paths[index], unreadable)

    def decode(index: tf.Tensor, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        def after(at: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return successors[at], *read(successors[at], seed)

        index = tf.cast(index, tf.int64)
        _, image, label = tf.while_loop(
            lambda at, image, label: label == UNREADABLE,
            after,
            (index, *read(index, seed)),
            maximum_iterations=tries,
        )
        return image, label

    return tf.function(decode)  # traced once, however many splits and passes call it
