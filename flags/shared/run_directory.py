"""Run directories: which run they belong to, their lock, and their config.

A run directory contains config.json (the settings), metrics.jsonl (a line per epoch), model.keras
(masked), dense.keras (plain layers), report.json, plots/ and tensorboard/.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil

from absl import logging

import hydra_tf
from hydra_tf.core.files import is_unfinished, replacing

from .launcher import UsageError
from .types import Config, Settings

_RUN_FILES = (
    "metrics.jsonl", "model.keras", "dense.keras", "report.json", "plots",
    "tensorboard", "checkpoints", "last_good.keras", "suspects.npz", "model.tflite", "export.json",
    "certify.jsonl", "certify_validation.jsonl",
)  # fmt: skip

# Keys that every config has, with their types.
_NEEDED = {"dataset": str, "objective": str, "attacks": str, "batch_size": int, "seed": int}


def _stamped(config: Settings) -> Config:
    """Return the config with the library's version and a hash of both."""
    content = {**config, "hydra_tf": hydra_tf.__version__}
    text = json.dumps(content, sort_keys=True)
    return {**content, "hash": hashlib.sha256(text.encode()).hexdigest()[:12]}


def _versions() -> dict[str, str]:
    """Return the versions of the other libraries that a run's numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}


def _is_same_run(out: str, config: Settings) -> bool:
    """Return whether a directory belongs to the run of this config."""
    return {**read_config(out), "versions": None} == {**_stamped(config), "versions": None}


def _has_report(out: str) -> bool:
    """Return whether the run of a directory is finished."""
    return os.path.exists(os.path.join(out, "report.json"))


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
    """Return whether a directory holds the finished run of this config; write nothing.

    Args:
        out: the run directory, which need not exist.
        config: settings of the run.
        overwrite: whether another run there may be replaced.

    Raises:
        UsageError: when the directory holds something else or cannot be written.
    """
    if os.path.exists(os.path.join(out, "config.json")):
        same = _is_same_run(out, config)
        if not (same or overwrite):
            raise UsageError(
                f"{out} holds another run; choose another --out, or pass --overwrite to replace it."
            )
        return same and not overwrite and _has_report(out)
    # A run that was killed while it wrote config.json leaves temporary files of that name only.
    if os.path.isdir(out) and not all(is_unfinished(n, "config.json") for n in os.listdir(out)):
        raise UsageError(f"{out} is not empty and holds no run; choose another --out.")
    parent = os.path.abspath(out)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not (os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)):
        raise UsageError(
            f"{out} cannot be written: {parent} is not a folder with write permission."
        )
    return False


def prepare(out: str, config: Settings, overwrite: bool = False) -> None:
    """Lock a directory for this process and write config.json; call :func:`is_finished` first.

    Args:
        out: the run directory.
        config: settings of the run.
        overwrite: whether to remove the files of another run there first.

    Raises:
        UsageError: when another process has the lock, or the directory cannot be written.
    """
    try:
        os.makedirs(out, exist_ok=True)
        _lock(out)
        if is_finished(out, config, overwrite):  # another process has finished it meanwhile
            raise UsageError(f"{out} holds this run, which is finished; see its report.json.")
        versions = _remove_other_run(out, config, overwrite)
        text = json.dumps({**_stamped(config), "versions": versions}, indent=2)
        with replacing(os.path.join(out, "config.json")) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written ({error.strerror or error}); choose another --out."
        ) from error


def _remove_other_run(out: str, config: Settings, overwrite: bool) -> dict[str, str]:
    """Remove the files of another run if `overwrite`; return the versions of this run."""
    path = os.path.join(out, "config.json")
    if os.path.exists(path) and _is_same_run(out, config) and not _has_report(out):
        return _first_versions(out)  # resumed, even with --overwrite
    if overwrite and os.path.exists(path):
        for name in _RUN_FILES:  # not config.json, so that a run killed here is recognised
            target = os.path.join(out, name)
            if os.path.isdir(target):
                shutil.rmtree(target)
            elif os.path.exists(target):
                os.remove(target)
    return _versions()


# File descriptors of locked directories; the locks last until the process ends.
_locks: dict[str, int] = {}


def _lock(out: str) -> None:
    """Lock a directory until this process ends.

    Raises:
        UsageError: when another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # the operating system has no such locks
        return
    if os.path.realpath(out) in _locks:
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"Another process is using {out}; wait until it ends, or choose another --out."
        ) from None
    except OSError:  # the file system has no such locks
        os.close(handle)
    else:
        _locks[os.path.realpath(out)] = handle


def read_config(run: str) -> Config:
    """Return the config of a run directory.

    Raises:
        UsageError: when it does not exist or is damaged.
    """
    path = os.path.join(run, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            content: Config = json.load(file)
    except FileNotFoundError:
        raise UsageError(f"{run} is not a run directory: it has no config.json.") from None
    except ValueError:  # not JSON, or not even text
        raise UsageError(f"{path} is damaged: it is not JSON.") from None
    fits = isinstance(content, dict) and all(
        type(content.get(key)) is kind for key, kind in _NEEDED.items()
    )
    if not fits:
        raise UsageError(f"{path} is not the config of a run of hydra_tf.")
    return content


def remove_checkpoints(out: str) -> None:
    """Remove the checkpoints, which only an unfinished run needs."""
    shutil.rmtree(os.path.join(out, "checkpoints"), ignore_errors=True)
