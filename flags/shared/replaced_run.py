"""The files of a run that ``--overwrite`` replaces.

They are moved aside, into a folder of the run directory, until the new run has taken its first
step. If it ends before that, or is killed, they are moved back. Files that are not of a run, such
as notes, stay where they are.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterator

from hydra_tf.core.files import is_unfinished, replacing

from .launcher import UsageError

_FILES = (
    "metrics.jsonl", "model.keras", "dense.keras", "report.json", "last_good.keras",
    "suspects.npz", "model.tflite", "model.onnx", "export.json", "certify.jsonl",
    "certify_validation.jsonl", "distances.csv", "float32.tflite", "float16.tflite", "int8.tflite",
    "figures.json", "MODEL_CARD.md",
)  # fmt: skip
# Folders of a run, with the names of its files in them and in their folders.
_FOLDERS = {
    "plots": ("training.png", "layers.png", "certified.png", "distances.png", "judgement*.png"),
    "tensorboard": ("events.out.tfevents.*",),
    "checkpoints": ("at-*.npz", ".at-*.unfinished*.npz"),
}
_ASIDE, _DISCARDED = ".replaced", ".discarded"


def run_files(out: str) -> Iterator[str]:
    """Yield the paths, relative to a run directory, of the files of its run.

    A link in place of a folder counts as one file; what it points to is left alone.

    Args:
        out: the run directory.
    """
    for entry in os.listdir(out) if os.path.isdir(out) else []:
        ours = entry in _FILES or any(is_unfinished(entry, name) for name in _FILES)
        if ours and _is_file(os.path.join(out, entry)):
            yield entry
    for folder, patterns in _FOLDERS.items():
        if os.path.islink(os.path.join(out, folder)):
            yield folder
            continue
        for parent, _, names in os.walk(os.path.join(out, folder)):
            for name in names:
                if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                    yield os.path.relpath(os.path.join(parent, name), out)


def _is_file(path: str) -> bool:
    """Return whether a path is a file or a link."""
    return os.path.islink(path) or os.path.isfile(path)


def check_replaceable(out: str) -> None:
    """Check that nothing else has the name of a file or folder of a run.

    Args:
        out: the run directory.

    Raises:
        UsageError: with the path that is not of a run.
    """
    for names, fits in ((_FILES, _is_file), (_FOLDERS, os.path.isdir)):
        for name in names:
            path = os.path.join(out, name)
            if os.path.lexists(path) and not (fits(path) or os.path.islink(path)):
                raise UsageError(
                    f"{path} is not of a run of hydra_tf, and is in the way of one; move it, or "
                    "choose another --out."
                )


def move_aside(out: str) -> None:
    """Move the files of a run aside, and keep a copy of its config there.

    Args:
        out: the run directory, locked by this process.

    Raises:
        UsageError: as :func:`check_replaceable`; nothing is moved then.
        OSError: when a file cannot be moved; all are moved back then.
    """
    check_replaceable(out)
    names, aside = list(run_files(out)), os.path.join(out, _ASIDE)
    try:
        os.mkdir(aside)
        for name in names:
            _move(out, aside, name)
        # Last: without the config, move_back knows that not all files were moved.
        with replacing(os.path.join(aside, "config.json")) as temporary:
            shutil.copyfile(os.path.join(out, "config.json"), temporary)
    except BaseException:
        move_back(out)
        raise


def is_aside(out: str) -> bool:
    """Return whether the files of a run are aside.

    Args:
        out: the run directory.
    """
    return os.path.isdir(os.path.join(out, _ASIDE))


def move_back(out: str) -> None:
    """Undo :func:`move_aside`, if it was called; remove the files of the run that did not start.

    A call that is interrupted can be repeated.

    Args:
        out: the run directory, locked by this process.

    Raises:
        OSError: when a file cannot be moved.
    """
    aside = os.path.join(out, _ASIDE)
    if not is_aside(out):
        return
    config = os.path.join(aside, "config.json")
    if os.path.exists(config):
        for name in list(run_files(out)):
            os.remove(os.path.join(out, name))
        os.replace(config, os.path.join(out, "config.json"))
    for folder in _FOLDERS:  # an empty folder of checkpoints would mean an unfinished run
        path = os.path.join(out, folder)
        if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
            os.rmdir(path)
    for name in list(run_files(aside)):
        _move(aside, out, name)
    shutil.rmtree(aside)


def _move(source: str, target: str, name: str) -> None:
    """Move a file to the same place in another folder."""
    path = os.path.join(target, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.replace(os.path.join(source, name), path)


def remove(out: str) -> None:
    """Remove the files that were moved aside, since the new run has started.

    Args:
        out: the run directory, locked by this process.
    """
    discard(out, _ASIDE)


def discard(out: str, folder: str) -> None:
    """Remove a folder of a run directory; it is gone at once, its files some time later.

    Args:
        out: the run directory, locked by this process.
        folder: name of the folder, which need not exist.
    """
    discarded = os.path.join(out, _DISCARDED)
    shutil.rmtree(discarded, ignore_errors=True)  # left by a process that was killed
    path = os.path.join(out, folder)
    if os.path.islink(path):
        os.remove(path)
    elif os.path.isdir(path):
        os.rename(path, discarded)
        shutil.rmtree(discarded, ignore_errors=True)
