"""Image files in folders by class, listed and checked without TensorFlow."""

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
        labels: int64 [files], the index of each file's class among the class names.
    """

    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]


def has_splits(path: str) -> bool:
    """Return whether the folders in a folder are splits rather than classes.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when it has folders of some splits, but not of both train and test.

    Example:
        >>> has_splits("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: The folder "no/such/folder" of images does not exist.
    """
    if not os.path.isdir(path):
        raise FileNotFoundError(f'The folder "{path}" of images does not exist.')
    present = [split for split in SPLITS if os.path.isdir(os.path.join(path, split))]
    if present and not {"train", "test"} <= set(present):
        raise ValueError(
            f'The folder "{path}" contains {" and ".join(present)}, but splits need both train and '
            "test (a missing validation is taken from train); without any of the three, its "
            "folders are the classes."
        )
    return bool(present)


def class_names(path: str) -> tuple[str, ...]:
    """Return the names of the class folders, sorted.

    Args:
        path: folder with one folder for each class.

    Raises:
        ValueError: when there are fewer than two.
    """
    with os.scandir(path) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if len(names) < 2:
        what = f'only the class folder "{names[0]}"' if names else "no class folders"
        raise ValueError(
            f'The folder "{path}" contains {what}; it needs one folder of images for each of at '
            "least two classes."
        )
    return tuple(names)


def list_images(path: str, classes: Sequence[str]) -> Listing:
    """Return the image files of the classes, and warn of other files.

    Args:
        path: folder with one folder for each class, which may have further folders in it.
        classes: the expected class names.

    Raises:
        ValueError: when a class is missing, unknown or empty.
    """
    names = class_names(path)
    if different := sorted(set(names) ^ set(classes)):
        raise ValueError(
            f'The classes of "{path}" differ from those of the training images: '
            f"{_first(different)} are in one of the two only."
        )
    paths: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for label, name in enumerate(classes):
        images: list[str] = []
        for folder, folders, files in os.walk(os.path.join(path, name)):
            folders.sort()
            # Hidden files, such as "._0.png", are metadata of other programs.
            for file in sorted(file for file in files if not file.startswith(".")):
                is_image = file.lower().endswith(_ENDINGS)
                (images if is_image else others).append(os.path.join(folder, file))
        if not images:
            raise ValueError(
                f'The class folder "{os.path.join(path, name)}" contains no images '
                f"({', '.join(_ENDINGS)})."
            )
        paths += images
        labels += [label] * len(images)
    if others:
        logging.warning(
            '%d files in "%s" are ignored, since their names do not end like images (%s): %s.',
            *(len(others), path, ", ".join(_ENDINGS), _first(others)),
        )
    return Listing(tuple(paths), np.array(labels, np.int64))


def _first(names: Sequence[str]) -> str:
    """Return the first few names, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
