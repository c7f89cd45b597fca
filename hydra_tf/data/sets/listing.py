"""Folders of images by class: what is there, and what is wrong with it. Loads no TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from absl import logging

SPLITS = ("train", "validation", "test")
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SHOWN = 3  # names in a sentence


@dataclass(frozen=True)
class Listing:
    """Image files and their classes, sorted by class and name.

    Args:
        paths: the files.
        labels: int64 [files], the place of each file's class among the class names.
    """

    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]


def has_splits(path: str) -> bool:
    """Return whether a folder holds the splits as folders, rather than the classes.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when some of the splits are there and one that is needed is not.

    Example:
        >>> has_splits("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: The folder "no/such/folder" of images does not exist.
    """
    if not os.path.isdir(path):
        raise FileNotFoundError(f'The folder "{path}" of images does not exist.')
    found = [split for split in SPLITS if os.path.isdir(os.path.join(path, split))]
    if found and not {"train", "test"} <= set(found):
        raise ValueError(
            f'The folder "{path}" holds {" and ".join(found)}, but splits need both train and test '
            "(validation can be left out, and is then taken from train); without any of the three, "
            "its folders are the classes."
        )
    return bool(found)


def class_names(path: str) -> tuple[str, ...]:
    """Return the names of the class folders, sorted.

    Args:
        path: folder that holds a folder for each class.

    Raises:
        ValueError: when there are fewer than two.
    """
    with os.scandir(path) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if len(names) < 2:
        what = f'only the class folder "{names[0]}"' if names else "no class folders"
        raise ValueError(
            f'The folder "{path}" holds {what}; it needs one folder of images for each of at least '
            "two classes."
        )
    return tuple(names)


def list_images(path: str, classes: Sequence[str]) -> Listing:
    """Return the image files of the classes; a warning tells of files that are no images.

    Args:
        path: folder that holds a folder for each class; deeper folders belong to the class.
        classes: the class names that it must hold, and no others.

    Raises:
        ValueError: when a class is missing, unknown or without images.
    """
    names = class_names(path)
    if different := sorted(set(names) ^ set(classes)):
        raise ValueError(
            f'The classes of "{path}" are not those of the training images: {_some(different)} '
            "are in one of them only."
        )
    paths: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for label, name in enumerate(classes):
        images: list[str] = []
        for place, folders, files in os.walk(os.path.join(path, name)):
            folders.sort()
            # Hidden files are other programs' notes, under the names of the images at that.
            for file in sorted(file for file in files if not file.startswith(".")):
                is_image = file.lower().endswith(_ENDINGS)
                (images if is_image else others).append(os.path.join(place, file))
        if not images:
            raise ValueError(
                f'The class folder "{os.path.join(path, name)}" holds no images '
                f"({', '.join(_ENDINGS)})."
            )
        paths += images
        labels += [label] * len(images)
    if others:
        logging.warning(
            '%d files in "%s" are left out, as they are not named as images (%s): %s.',
            *(len(others), path, ", ".join(_ENDINGS), _some(others)),
        )
    return Listing(tuple(paths), np.array(labels, np.int64))


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
