"""Image files in folders by class, listed and checked without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
    """Return the image files of the classes, and warn of everything else.

    Args:
        path: folder with one folder for each class, which may have further folders in it; links
            to folders are not followed there. Pipes and devices, and links to them, are not read.
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
    not_files: list[str] = []
    for label, name in enumerate(classes):
        images: list[str] = []
        for entry in _entries(os.path.join(path, name)):
            if not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
                not_files.append(entry.path)
            elif entry.name.lower().endswith(_ENDINGS):
                images.append(entry.path)
            else:
                others.append(entry.path)
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
    if not_files:
        logging.warning(
            '%d entries of "%s" are ignored, since they are not files but pipes, devices or links '
            "to something else: %s.",
            *(len(not_files), path, _first(not_files)),
        )
    return Listing(tuple(paths), np.array(labels, np.int64))


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder and the folders in it, files first, sorted by name.

    Hidden files, such as "._0.png", are left out: they are metadata of other programs.
    """
    folders = []
    try:
        found = os.scandir(folder)
    except PermissionError:
        raise ValueError(
            f'The folder "{folder}" cannot be read; give yourself permission, or move it away.'
        ) from None
    with found:
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not entry.name.startswith("."):
                yield entry
    for path in folders:
        yield from _entries(path)


def _first(names: Sequence[str]) -> str:
    """Return the first few names as readable text, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # Names that are not UTF-8 are strings with surrogates, which cannot be printed.
    shown = [os.fsencode(name).decode(errors="replace") for name in names[:_SHOWN]]
    return ", ".join(shown) + more
