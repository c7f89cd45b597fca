"""Checkpoints of a run, written and read atomically.

A checkpoint is a run position and the values from which the run resumes.
NumPy's format is a zip archive, with its index at the end and a checksum for each entry: a file
that is truncated or changed is recognised as damaged, and the previous checkpoint is used.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from absl import logging

from hydra_tf.core.archives import read_archive
from hydra_tf.core.files import replacing

Arrays = dict[str, Any]

_COUNT = "number of arrays"
_NAME = re.compile(r"at-(\d{5})-(\d{9})\.npz")


@dataclass(frozen=True)
class RunPosition:
    """The epoch and step that a run has reached, between two steps.

    Args:
        epoch: number of finished epochs.
        step: number of steps done in the epoch after them.

    Example:
        >>> RunPosition(1, 5) > RunPosition(0, 9)
        True
    """

    epoch: int = 0
    step: int = 0

    def __gt__(self, other: RunPosition) -> bool:
        return (self.epoch, self.step) > (other.epoch, other.step)


class Checkpoints:
    """The checkpoints of one run, in a separate folder.

    Args:
        folder: the folder; created with the first checkpoint.
        writes: whether this process writes checkpoints. All processes read them, so several
            workers need a shared folder.
        keep: how many to keep, at least 2, because the newest may be damaged.

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
        """Write one checkpoint atomically, and remove the oldest.

        Args:
            position: position of the run.
            arrays: the values of the run; ``"run"`` identifies the run, as JSON.

        Raises:
            OSError: when it cannot be written; the previous checkpoints are kept.
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
                f"A checkpoint cannot be written ({error.strerror or error}); free some space and "
                "run the same command again, which resumes from the previous checkpoint",
                path,
            ) from error
        # Later checkpoints are damaged ones: the run resumed from an earlier one.
        paths = self._paths()
        index = paths.index(path)
        for old in (*paths[:index], *paths[index + self.keep :]):
            os.remove(old)
        # Files that killed processes left unfinished.
        for leftover in pathlib.Path(self.folder).glob(".at-*.unfinished*.npz"):
            leftover.unlink()

    def newest(self) -> tuple[RunPosition, Arrays] | None:
        """Return the newest undamaged checkpoint, or None.

        Returns:
            Its position and its arrays.
        """
        for path in self._paths():
            try:
                arrays = _read(path)
            except ValueError as error:
                logging.warning(
                    "hydra_tf: %s is damaged (%s); the previous checkpoint is used.", path, error
                )
                continue
            return RunPosition(*_position_of(path)), arrays
        return None

    def _paths(self) -> list[str]:
        """Return the checkpoint files, newest first."""
        if not os.path.isdir(self.folder):
            return []
        names = [name for name in os.listdir(self.folder) if _NAME.fullmatch(name)]
        return [os.path.join(self.folder, name) for name in sorted(names, key=_position_of)[::-1]]


def _read(path: str) -> Arrays:
    """Return the arrays of a file; raise ValueError if it is damaged."""
    arrays = read_archive(path)
    if arrays.pop(_COUNT, None) != len(arrays):
        raise ValueError("entries are missing from its index")
    return arrays


def variable_arrays(variables: Sequence[keras.Variable], prefix: str) -> Arrays:
    """Return the values of variables, with their index as key.

    Args:
        variables: Keras variables; of mirrored ones, the value on one replica is returned.
        prefix: first part of the key.

    Example:
        >>> list(variable_arrays([keras.Variable(1.0)], "model"))
        ['model/0']
    """
    return {f"{prefix}/{i}": np.asarray(variable) for i, variable in enumerate(variables)}


def restore_variables(
    variables: Sequence[keras.Variable], prefix: str, arrays: Mapping[str, Any]
) -> None:
    """Assign the values that :func:`variable_arrays` returned.

    Args:
        variables: as in :func:`variable_arrays`.
        prefix: as in :func:`variable_arrays`.
        arrays: arrays of a checkpoint.

    Raises:
        ValueError: when the checkpoint belongs to another model.
    """
    keys = [key for key in arrays if key.startswith(f"{prefix}/")]
    fits = len(keys) == len(variables) and all(
        arrays.get(f"{prefix}/{i}") is not None
        and arrays[f"{prefix}/{i}"].shape == tuple(variable.shape)
        for i, variable in enumerate(variables)
    )
    if not fits:
        raise ValueError(
            f"The checkpoint belongs to another run: its {prefix} variables do not match those of "
            "this run."
        )
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{prefix}/{i}"])


def _position_of(path: str) -> tuple[int, int]:
    """Return epoch and step from the name of a checkpoint file."""
    epoch, step = re.findall(r"\d+", os.path.basename(path))
    return int(epoch), int(step)
