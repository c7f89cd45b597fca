"""A user's images, one folder for each class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.data.fingerprint import folder_hash
from hydra_tf.data.passes import shuffled
from hydra_tf.data.sets.base import DATASETS, DataSet
from hydra_tf.data.sets.decoding import Decoder, check_size
from hydra_tf.data.sets.listing import Listing, class_names, has_splits, list_images
from hydra_tf.data.sets.splitting import check_shares, share_sizes, stratified_order
from hydra_tf.data.source import Decode, Example, Source
from hydra_tf.data.unreadable import UNREADABLE_LABEL, UnreadableLog, read_or_mark

# More unreadable files in a row mean that the disk failed, for example.
_MAX_TRIES = 1000


@DATASETS.register()
@dataclass(frozen=True)
class Folder(DataSet):
    """JPEG, PNG, BMP and GIF images (the first frame), one folder for each class.

    The folder contains either ``train``, ``test`` and optionally ``validation``, each with a
    folder for each class, or the class folders themselves, which are then split, stratified and
    the same in every run. The classes are numbered in the order of their names. Training images
    have a random crop, validation and test images the centre crop; see
    :class:`hydra_tf.data.sets.decoding.Decoder`. Files are read when they are needed. An
    unreadable file is replaced by the next readable one of its split and named in a warning at
    the end of the pass; ``sizes`` includes it. Pipes, devices and links to them are ignored, with
    a warning.

    Args:
        crop: pixels of random shift after the random crop, see :class:`DataSet`.
        flip: mirror training images at random.
        path: the folder.
        size: height and width that images are resized to.
        channels: 3, or 1 for grey levels.
        validation_share: share of the images (of the training images, if splits are folders)
            used for validation, unless there is a folder of validation images.
        test_share: share of the images used for the test, unless splits are folders.

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
            FileNotFoundError: when the folder does not exist.
            ValueError: when it has no images, fewer than two classes, or an empty class.
        """
        if not self.path:
            raise ValueError(
                'The data set "folder" needs the path of the images: folder:path=/data/mine.'
            )
        root = os.path.expanduser(self.path)
        classes, files, splits = self._list_splits(root)
        unreadable = UnreadableLog()
        successors = np.empty(len(files.paths), np.int64)  # the next file of the same split
        successors[np.concatenate(splits)] = np.concatenate([np.roll(s, -1) for s in splits])
        examples = [tf.data.Dataset.from_tensor_slices(indices) for indices in splits]
        train = len(splits[0])
        return Source(
            train=examples[0],
            validation=examples[1],
            test=examples[2],
            num_classes=len(classes),
            augment=self.augmentation(),
            decode=_make_decode(files, successors, Decoder(self.size, self.channels), unreadable),
            order=lambda seeds: shuffled(examples[0], train, seeds),
            unreadable=unreadable,
            fingerprint=lambda: folder_hash(root, files.paths, files.labels),
        )

    def _list_splits(self, path: str) -> tuple[tuple[str, ...], Listing, list[np.ndarray]]:
        """Return the class names, all files, and the indices of the files of each split."""
        if not has_splits(path):
            classes = class_names(path)
            files = list_images(path, classes)
            order = stratified_order(files.labels)
            validation, test = share_sizes(len(order), self.validation_share, self.test_share)
            train = max(0, len(order) - validation - test)
            return classes, files, np.split(order, [train, train + validation])
        classes = class_names(os.path.join(path, "train"))
        listings = {
            split: list_images(os.path.join(path, split), classes)
            for split in ("train", "validation", "test")
            if os.path.isdir(os.path.join(path, split))
        }
        files = Listing(
            tuple(name for listing in listings.values() for name in listing.paths),
            np.concatenate([listing.labels for listing in listings.values()]),
        )
        starts = np.cumsum([len(listing.labels) for listing in listings.values()])[:-1]
        splits = np.split(np.arange(len(files.labels)), starts)
        if "validation" not in listings:
            order = stratified_order(listings["train"].labels)
            train = len(order) - share_sizes(len(order), self.validation_share)[0]
            splits = [order[:train], order[train:], splits[1]]
        return classes, files, splits


def _make_decode(
    files: Listing, successors: np.ndarray, decoder: Decoder, unreadable: UnreadableLog
) -> Decode:
    """Return the function from the index of a file to image and label."""
    with tf.device("CPU"):
        # Names need not be UTF-8.
        paths = tf.constant([os.fsencode(path) for path in files.paths])
        labels = tf.constant(files.labels)
        next_index = tf.constant(successors)
    tries = min(len(files.paths), _MAX_TRIES)

    def read(index: tf.Tensor, seed: tf.Tensor | None) -> Example:
        def read_file() -> Example:
            return decoder(tf.io.read_file(paths[index]), seed), labels[index]

        return read_or_mark(read_file, decoder.shape, paths[index], unreadable)

    def decode(index: tf.Tensor, seed: tf.Tensor | None) -> Example:
        def read_next(index: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return next_index[index], *read(next_index[index], seed)

        index = tf.cast(index, tf.int64)
        _, image, label = tf.while_loop(
            lambda index, image, label: label == UNREADABLE_LABEL,
            read_next,
            (index, *read(index, seed)),
            maximum_iterations=tries,
        )
        return image, label

    traced: Decode = tf.function(decode)  # once for all splits and passes
    return traced
