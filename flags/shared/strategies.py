"""The tf.distribute strategy that a command line asks for."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from .launcher import StoppedError, UsageError

NAMES = ("default", "mirrored", "multi_worker")

# Seconds that a worker waits for the others within a step before it takes them for dead.
_PATIENCE = 300.0

_REFUSED = {
    "tpu": "TPUs cannot be used: the choice of the largest scores runs on CPUs and GPUs only",
    "parameter_server": (
        "parameter servers cannot be used: their workers step on their own, and masks would differ"
    ),
}


def check(name: str) -> None:
    """Refuse a strategy that is none of ours; TensorFlow stays unloaded.

    Args:
        name: of the flag.

    Raises:
        UsageError: with the strategies to choose from, or what is wrong with TF_CONFIG.
    """
    from hydra_tf.core.registry import unknown

    if name in _REFUSED:
        raise UsageError(f"--strategy={name}: {_REFUSED[name]}; choose one of {', '.join(NAMES)}.")
    if name not in NAMES:
        raise ValueError(unknown("strategy", name, NAMES))
    if name == "multi_worker":
        _check_cluster(os.environ.get("TF_CONFIG"))


def _check_cluster(text: str | None) -> None:
    """Refuse a TF_CONFIG that does not say who the workers are and which of them this is."""
    example = (
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise UsageError(
            f"--strategy=multi_worker needs the environment variable TF_CONFIG, such as {example}."
        )
    try:
        content = json.loads(text)
        task, index = content["task"]["type"], int(content["task"]["index"])
        fits = 0 <= index < len(content["cluster"][task]) and set(content["cluster"]) <= {
            "chief",
            "worker",
        }
    except (ValueError, TypeError, KeyError):
        fits = False
    if not fits:
        raise UsageError(
            f"TF_CONFIG must name the chief and the workers, and which of them this is, as "
            f"{example} does; it is {text}."
        )


def worker(name: str) -> tuple[int, int]:
    """Return the number of this worker, and how many there are; number 0 writes the run's files.

    Args:
        name: of the strategy, checked.
    """
    if name != "multi_worker":
        return 0, 1
    content = json.loads(os.environ["TF_CONFIG"])
    cluster, task = content["cluster"], content["task"]
    # As TensorFlow counts them: the chief, where there is one, before the workers.
    before = len(cluster.get("chief", [])) if task["type"] == "worker" else 0
    return before + int(task["index"]), sum(map(len, cluster.values()))


def start(name: str) -> Any:
    """Return the strategy; for several workers before anything else is done with TensorFlow.

    Args:
        name: of the strategy, checked.
    """
    import tensorflow as tf

    if name == "multi_worker":
        sys.stdout.write("Waiting for the other workers that TF_CONFIG names.\n")
        sys.stdout.flush()
        how = tf.distribute.experimental.CommunicationOptions(timeout_seconds=_PATIENCE)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=how)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


@contextlib.contextmanager
def lost_workers_explained(name: str) -> Iterator[None]:
    """Say in one sentence that another worker has gone, which TensorFlow says in pages.

    Args:
        name: of the strategy, checked.

    Raises:
        StoppedError: when a step cannot be made for want of a worker.
    """
    import tensorflow as tf

    gone = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
    )
    try:
        yield
    except gone as error:
        if name != "multi_worker":
            raise
        raise StoppedError(
            "another worker is gone; start the same command on all workers again, which go on "
            "from the last checkpoint."
        ) from error
