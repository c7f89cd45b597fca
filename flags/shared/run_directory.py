"""Run directories: which run they belong to, and their locks.

A run directory contains config.json (the settings), metrics.jsonl (a line per epoch), model.keras
(masked), dense.keras (plain layers), report.json, plots/ and tensorboard/. It has checkpoints/
until its run is finished.

Training locks the directory for itself; evaluation, certification and export share it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator

from absl import logging

import hydra_tf
from hydra_tf.core import locks
from hydra_tf.core.files import is_unfinished, replacing

from . import replaced_run
from .launcher import UsageError
from .run_files import read_config, read_metrics, read_report
from .types import Config, Settings

# Entries of a config that are not settings of the run.
_OF_VERSION = ("hydra_tf", "hash", "versions")
_CHECKPOINTS = "checkpoints"


def _stamped(config: Settings) -> Config:
    """Return the config with the library's version and a hash of both."""
    content = {**config, "hydra_tf": hydra_tf.__version__}
    text = json.dumps(content, sort_keys=True)
    return {**content, "hash": hashlib.sha256(text.encode()).hexdigest()[:12]}


def _versions() -> dict[str, str]:
    """Return the versions of the other libraries that a run's numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}


def _settings(config: Settings) -> Config:
    """Return the settings in a config."""
    return {key: value for key, value in config.items() if key not in _OF_VERSION}


def is_same_run(out: str, config: Settings) -> bool:
    """Return whether a directory belongs to the run of this config.

    Args:
        out: the run directory.
        config: settings of the run.
    """
    return {**read_config(out), "versions": None} == {**_stamped(config), "versions": None}


def has_finished(out: str) -> bool:
    """Return whether the run of a directory is finished.

    Args:
        out: the run directory.
    """
    # A run that is killed while its network is evaluated still has checkpoints.
    return os.path.exists(os.path.join(out, "report.json")) and not has_checkpoints(out)


def has_checkpoints(out: str) -> bool:
    """Return whether a run directory has a checkpoint; an empty folder of them is ignored.

    Args:
        out: the run directory.
    """
    return bool(glob.glob(os.path.join(glob.escape(out), _CHECKPOINTS, "at-*.npz")))


def _refuse_other_run(out: str, config: Settings) -> None:
    """Raise UsageError for a directory with a run that is not the one of the config."""
    stored, now = read_config(out), hydra_tf.__version__
    before = stored.get("hydra_tf", now)
    if before == now or _settings(stored) != _settings(config):
        raise UsageError(
            f"{out} holds another run{_differences(stored, config)}; choose another --out, or pass "
            "--overwrite to replace it."
        )
    if has_finished(out):
        raise UsageError(
            f"{out} holds this run, finished with hydra_tf {before}: hydra_tf {now} can evaluate, "
            "certify and export it; to train with this version, choose another --out."
        )
    raise UsageError(
        f"{out} holds this run, unfinished, of hydra_tf {before}: install hydra_tf=={before} to "
        f"continue it, or choose another --out to train with hydra_tf {now}."
    )


def _differences(stored: Settings, config: Settings) -> str:
    """Return the first settings that differ, in brackets, or nothing if only versions do."""
    old, new = _settings(stored), _settings(config)
    names = [name for name in dict.fromkeys([*new, *old]) if old.get(name) != new.get(name)]
    shown = [f"{name} {old.get(name)} instead of {new.get(name)}" for name in names[:3]]
    more = [f"{len(names) - 3} more settings"] if len(names) > 3 else []
    return f" (with {', '.join([*shown, *more])})" if names else ""


def _first_versions(out: str) -> dict[str, str]:
    """Return the versions that a run began with; warn if the installed ones differ."""
    first, now = read_config(out).get("versions"), _versions()
    if first not in (None, now):
        logging.warning(
            "hydra_tf: %s began with %s and is resumed with %s; its numbers may differ.",
            out,
            first,
            now,
        )
    return first or now


def is_finished(out: str, config: Settings, overwrite: bool = False) -> bool:
    """Return whether a directory holds the finished run of this config.

    A run that was moved aside by one that did not start is moved back; nothing else is written.

    Args:
        out: the run directory, which need not exist.
        config: settings of the run.
        overwrite: whether another run there may be replaced.

    Raises:
        UsageError: when the directory holds something else or cannot be written, or a file of
            this run is damaged.
    """
    if replaced_run.is_aside(out):
        _restore(out)
    if os.path.exists(os.path.join(out, "config.json")):
        same, finished = is_same_run(out, config), has_finished(out)
        if not (same or overwrite):
            _refuse_other_run(out, config)
        if not same or (overwrite and finished):
            replaced_run.check_replaceable(out)
            return False
        read_metrics(out)
        if finished:
            read_report(out)
        return finished
    if os.path.isdir(out) and not all(_is_of_a_start(out, name) for name in os.listdir(out)):
        raise UsageError(f"{out} is not empty and holds no run; choose another --out.")
    parent = os.path.abspath(out)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not (os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)):
        raise UsageError(
            f"{out} cannot be written: {parent} is not a folder with write permission."
        )
    return False


def _is_of_a_start(out: str, name: str) -> bool:
    """Return whether a run that was killed before it had a config.json leaves an entry."""
    folder = os.path.join(out, name)
    empty = name == _CHECKPOINTS and os.path.isdir(folder) and not os.listdir(folder)
    return empty or is_unfinished(name, "config.json")


def prepare(out: str, config: Settings, overwrite: bool = False) -> None:
    """Lock a directory for this process and write config.json; call :func:`is_finished` first.

    Args:
        out: the run directory.
        config: settings of the run.
        overwrite: whether to replace another run there; its files are moved aside, see
            :mod:`replaced_run`.

    Raises:
        UsageError: when another process has the lock, or the directory cannot be written.
    """
    try:
        os.makedirs(out, exist_ok=True)
        lock(out)
        replaced_run.move_back(out)
        if is_finished(out, config, overwrite):  # another process has finished it meanwhile
            raise UsageError(f"{out} holds this run, which is finished; see its report.json.")
        versions = _replace_other_run(out, config, overwrite)
        try:
            os.makedirs(os.path.join(out, _CHECKPOINTS), exist_ok=True)
            text = json.dumps({**_stamped(config), "versions": versions}, indent=2)
            with replacing(os.path.join(out, "config.json")) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except BaseException:
            replaced_run.move_back(out)
            raise
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written ({error.strerror or error}); choose another --out."
        ) from error


def _replace_other_run(out: str, config: Settings, overwrite: bool) -> dict[str, str]:
    """Move the files of another run aside if `overwrite`; return the versions of this run."""
    if not os.path.exists(os.path.join(out, "config.json")):
        return _versions()
    if is_same_run(out, config) and not has_finished(out):
        return _first_versions(out)  # resumed, even with --overwrite
    if overwrite:
        replaced_run.move_aside(out)
    return _versions()


@contextlib.contextmanager
def prepared(out: str, config: Settings, overwrite: bool = False) -> Iterator[None]:
    """Call :func:`prepare`; if the run does not start within the context, restore the replaced run.

    Arguments and errors as in :func:`prepare`. A run has started when
    :func:`replaced_run.remove` was called, or when its loss was not finite.
    """
    prepare(out, config, overwrite)
    try:
        yield
    except FloatingPointError:
        replaced_run.remove(out)
        raise
    except BaseException:
        replaced_run.move_back(out)
        raise
    replaced_run.remove(out)


# File descriptors of locked directories, and whether others share the lock; the locks last until
# the process ends.
_locks: dict[str, tuple[int, bool]] = {}


def lock(run: str, shared: bool = False) -> None:
    """Lock a directory until this process ends.

    Args:
        run: the directory.
        shared: whether other processes may share it.

    Raises:
        UsageError: when another process has locked it.
    """
    path = os.path.realpath(run)
    handle, is_shared = _locks.get(path, (None, True))
    if handle is not None and (shared or not is_shared):
        return
    try:
        handle = locks.lock(run, shared, handle=handle)
    except BlockingIOError:
        advice = "" if shared else ", or choose another --out"
        raise UsageError(f"Another process is using {run}; wait until it ends{advice}.") from None
    if handle is not None:
        _locks[path] = handle, shared


def share(run: str) -> None:
    """Let other processes use a directory that this process has locked and no longer changes.

    Args:
        run: the directory.
    """
    path = os.path.realpath(run)
    handle, is_shared = _locks.get(path, (None, True))
    if handle is not None and not is_shared:
        locks.lock(run, shared=True, handle=handle)
        _locks[path] = handle, True


def use(run: str) -> Config:
    """Lock a run directory against training until this process ends; return its config.

    Args:
        run: the directory.

    Raises:
        UsageError: when it is not a run directory, is damaged, or is being trained.
    """
    if os.path.isdir(run):
        if replaced_run.is_aside(run):
            _restore(run)
            share(run)
        lock(run, shared=True)
    return read_config(run)


def _restore(run: str) -> None:
    """Move back the run that was replaced by one that was killed before its first step."""
    lock(run)
    replaced_run.move_back(run)


def require_finished(run: str) -> None:
    """Check that training in a run directory is not unfinished.

    Args:
        run: the directory.

    Raises:
        UsageError: when the run has checkpoints, so that training would continue.
    """
    if has_checkpoints(run):
        raise UsageError(
            f"The run in {run} is not finished; run its flags.train or flags.study command again, "
            "which resumes it."
        )


@contextlib.contextmanager
def writing(run: str) -> Iterator[None]:
    """Wait until no other process writes results to a run directory, and make others wait.

    Args:
        run: the directory, locked by this process.
    """
    with locks.locked(os.path.join(run, "config.json"), wait=True):
        yield


def remove_checkpoints(out: str) -> None:
    """Remove the checkpoints, which only an unfinished run needs; other files are kept.

    Args:
        out: the run directory, locked by this process.
    """
    folder = os.path.join(out, _CHECKPOINTS)
    ours = [name for name in replaced_run.run_files(out) if os.path.dirname(name) == _CHECKPOINTS]
    linked = os.path.islink(folder)
    if linked or (os.path.isdir(folder) and len(os.listdir(folder)) == len(ours)):
        replaced_run.discard(out, _CHECKPOINTS)
    else:
        for name in ours:
            os.remove(os.path.join(out, name))
