"""Checkpoints of a whole run: written whole or not at all, read only if they are whole.

A file holds everything that the rest of a run follows from: the model's variables, the
optimizer's, the place in the run, the sums of the epoch's metrics and what callbacks remember.
What the data and every random number are follows from the place. NumPy's format is a zip
archive, whose index stands at its end and whose parts carry checksums: a file that was cut short
or has changed is known for what it is, and the one before is taken.
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import logging

from hydra_tf.core.files import replacing, unfinished

# What reading a file that was cut short, or has changed, may raise; a disk that fails is no damage.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError),
    RuntimeError,  # which zipfile raises for a part that claims to be encrypted
)
_COUNT = "number of arrays"
_NAME = re.compile(r"at-(\d{5})-(\d{9})\.npz")


@dataclass(frozen=True)
class RunPosition:
    """Where a run stands, between two steps.

    Args:
        epoch: epochs finished.
        step: steps done in the epoch after them.

    Example:
        >>> RunPosition(1, 5) > RunPosition(0, 9)
        True
    """

    epoch: int = 0
    step: int = 0

    def __gt__(self, other: RunPosition) -> bool:
        return (self.epoch, self.step) > (other.epoch, other.step)


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Args:
        folder: where they are; made with the first one.
        writes: whether this process writes them. All processes read them, so the folder of
            several workers must be one that they share.
        keep: how many to keep, at least 2: the newest may be found damaged.

    Raises:
        ValueError: for a `keep` below 2.

    Example:
        >>> Checkpoints("no/such/folder").newest() is None
        True
    """

    def __init__(self, folder: str | os.PathLike[str], writes: bool = True, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError(f"keep must be at least 2, not {keep}: the newest may be damaged.")
        self.folder, self.writes, self.keep = os.fspath(folder), writes, keep

    def save(self, position: RunPosition, arrays: Mapping[str, Any]) -> None:
        """Write one checkpoint, whole or not at all, and remove the oldest.

        Args:
            position: where the run stands.
            arrays: what it consists of; under ``"run"`` what run it belongs to, as JSON.

        Raises:
            OSError: when it cannot be written; those of before are still there.
        """
        if not self.writes:
            return
        os.makedirs(self.folder, exist_ok=True)
        path = os.path.join(self.folder, f"at-{position.epoch:05d}-{position.step:09d}.npz")
        try:
            with replacing(path) as temporary:
                np.savez(temporary, **{**arrays, _COUNT: np.asarray(len(arrays))})
        except OSError as error:
            raise OSError(
                error.errno,
                f"A checkpoint cannot be written ({error.strerror or error}); make room and run "
                "the same command, which goes on from the one before",
                path,
            ) from error
        # One of a later place was found damaged: the run has gone on from before it.
        paths = self._paths()
        at = paths.index(path)
        for old in (*paths[:at], *paths[at + self.keep :]):
            os.remove(old)
        # What a process was writing when it was killed.
        for left in pathlib.Path(self.folder).glob(unfinished("at-*.npz").name):
            left.unlink()

    def newest(self) -> tuple[RunPosition, dict[str, Any]] | None:
        """Return the newest whole checkpoint, or None; damaged ones are passed over.

        Returns:
            Its place and its arrays.
        """
        for path in self._paths():
            try:
                arrays = _read(path)
            except _DAMAGE as bad:
                logging.warning("hydra_tf: %s is damaged (%s); the one before is taken.", path, bad)
                continue
            epoch, step = _place_in(path)
            return RunPosition(epoch, step), arrays
        return None

    def _paths(self) -> list[str]:
        """The files, newest first."""
        if not os.path.isdir(self.folder):
            return []
        names = [name for name in os.listdir(self.folder) if _NAME.fullmatch(name)]
        return [os.path.join(self.folder, name) for name in sorted(names, key=_place_in)[::-1]]


def _read(path: str) -> dict[str, Any]:
    """The arrays of a file, if it is whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except OSError as error:
        if error.errno == errno.EINVAL:  # an index that points before the file; not a bad disk
            raise ValueError(str(error)) from error
        raise
    if arrays.pop(_COUNT, None) != len(arrays):
        raise ValueError("its index has lost a part")
    return arrays


def gathered(variables: Sequence[Any], prefix: str) -> dict[str, Any]:
    """Return the values of variables by their number.

    Args:
        variables: Keras variables; mirrored ones give the value of one replica.
        prefix: goes before the number.

    Example:
        >>> import keras
        >>> list(gathered([keras.Variable(1.0)], "model"))
        ['model/0']
    """
    return {f"{prefix}/{i}": np.asarray(variable) for i, variable in enumerate(variables)}


def scatter(variables: Sequence[Any], prefix: str, arrays: Mapping[str, Any]) -> None:
    """Give variables the values that :func:`gathered` took.

    Args:
        variables: as there.
        prefix: as there.
        arrays: a checkpoint's.

    Raises:
        ValueError: when the checkpoint is of another model.
    """
    found = [key for key in arrays if key.startswith(f"{prefix}/")]
    fits = len(found) == len(variables) and all(
        arrays.get(f"{prefix}/{i}") is not None
        and arrays[f"{prefix}/{i}"].shape == tuple(variable.shape)
        for i, variable in enumerate(variables)
    )
    if not fits:
        raise ValueError(
            f"The checkpoint is of another run: its {prefix} variables are not those of this one."
        )
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{prefix}/{i}"])


def _place_in(path: str) -> tuple[int, int]:
    """The place that a file's name tells, as numbers."""
    epoch, step = re.findall(r"\d+", os.path.basename(path))
    return int(epoch), int(step)
