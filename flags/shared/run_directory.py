"""Run directories: whose they are, and what they hold."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from absl import logging

import hydra_tf
from hydra_tf.core.files import replacing, unfinished

from .launcher import UsageError

_OWN_FILES = (
    "metrics.jsonl", "model.keras", "dense.keras", "report.json", "plots",
    "tensorboard", "checkpoints", "last_good.keras", "suspects.npz", "model.tflite", "export.json",
    "certify.jsonl", "certify_validation.jsonl",
)  # fmt: skip


# What every run's config holds.
_NEEDED = {"dataset": str, "objective": str, "attacks": str, "batch_size": int, "seed": int}


def _stamped(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the library's version and a hash of both."""
    content = {**config, "hydra_tf": hydra_tf.__version__}
    text = json.dumps(content, sort_keys=True)
    return {**content, "hash": hashlib.sha256(text.encode()).hexdigest()[:12]}


def _versions() -> dict[str, str]:
    """The versions of what a run's numbers come from beside this library."""
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}


def _same(out: str, config: Mapping[str, Any]) -> bool:
    """Whether a directory holds this very run."""
    return {**read_config(out), "versions": None} == {**_stamped(config), "versions": None}


def _reported(out: str) -> bool:
    """Whether the run of a directory has come to its end."""
    return os.path.exists(os.path.join(out, "report.json"))


def _begun_with(out: str) -> Any:
    """The versions that a run was begun with; says so when it goes on with others."""
    begun, now = read_config(out).get("versions"), _versions()
    if begun not in (None, now):
        logging.warning(
            "hydra_tf: %s was begun with %s and goes on with %s; its numbers may differ.",
            out,
            begun,
            now,
        )
    return begun or now


def is_finished(out: str, config: Mapping[str, Any], overwrite: bool = False) -> bool:
    """Return whether a directory holds this very run, finished; nothing is written.

    Args:
        out: the run directory, which need not exist.
        config: what was asked for.
        overwrite: whether another run there may be replaced.

    Raises:
        UsageError: when the directory holds something else, or cannot be written.
    """
    if os.path.exists(os.path.join(out, "config.json")):
        same = _same(out, config)
        if not (same or overwrite):
            raise UsageError(
                f"{out} holds another run; choose another --out, or pass --overwrite to replace it."
            )
        return same and not overwrite and _reported(out)
    # A run that was killed while it made its directory leaves the first alone.
    if os.path.isdir(out) and not set(os.listdir(out)) <= {unfinished("config.json").name}:
        raise UsageError(f"{out} is not empty and holds no run; choose another --out.")
    parent = os.path.abspath(out)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not (os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)):
        raise UsageError(f"{out} cannot be written: {parent} is no folder that you may write to.")
    return False


def claim(out: str, config: Mapping[str, Any], overwrite: bool = False) -> None:
    """Make a directory this run's, after :func:`is_finished` has let it pass.

    Args:
        out: the run directory.
        config: what was asked for; written to config.json.
        overwrite: whether the files of the run there go first.

    Raises:
        UsageError: when it cannot be written.
    """
    try:
        os.makedirs(out, exist_ok=True)
        _require_alone(out)
        if is_finished(out, config, overwrite):  # by another process, since that was asked first
            raise UsageError(f"{out} holds this run, finished by now; see its report.json.")
        versions = _prepare(out, config, overwrite)
        text = json.dumps({**_stamped(config), "versions": versions}, indent=2)
        with replacing(os.path.join(out, "config.json")) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written ({error.strerror or error}); choose another --out."
        ) from error


def _prepare(out: str, config: Mapping[str, Any], overwrite: bool) -> Any:
    """Remove what another run has left, if that is asked for; return the run's versions."""
    path = os.path.join(out, "config.json")
    if os.path.exists(path) and _same(out, config) and not _reported(out):
        return _begun_with(out)  # and goes on, whatever --overwrite says of other runs
    if overwrite and os.path.exists(path):
        for name in _OWN_FILES:  # but config.json, by which a kill midway is told from no run
            target = os.path.join(out, name)
            if os.path.isdir(target):
                shutil.rmtree(target)
            elif os.path.exists(target):
                os.remove(target)
    return _versions()


_held: dict[str, int] = {}


def _require_alone(out: str) -> None:
    """Refuse a directory that another process works in; it is ours until this one ends.

    Raises:
        UsageError: when it does.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return
    if os.path.realpath(out) in _held:
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"Another process is at work in {out}; wait for it, or choose another --out."
        ) from None
    except OSError:  # a file system without such locks
        os.close(handle)
    else:
        _held[os.path.realpath(out)] = handle


def read_config(run: str) -> dict[str, Any]:
    """Return the config of a run directory.

    Raises:
        UsageError: when there is none, or it is damaged.
    """
    path = os.path.join(run, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
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


def conclude(out: str) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(os.path.join(out, "checkpoints"), ignore_errors=True)
