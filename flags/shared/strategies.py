"""The tf.distribute strategy of a command line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .launcher import StoppedError, UsageError

if TYPE_CHECKING:
    import tensorflow as tf

NAMES = ("default", "mirrored", "multi_worker")

# Seconds that a worker waits for the others in a step before it stops.
_TIMEOUT = 300.0

_UNSUPPORTED = {
    "tpu": "TPUs cannot be used: the selection of the largest scores runs on CPUs and GPUs only",
    "parameter_server": (
        "parameter servers cannot be used: their workers take steps independently, so that masks "
        "would differ"
    ),
}


def check(name: str) -> None:
    """Check the name of a strategy, and TF_CONFIG if it is used, without TensorFlow.

    Args:
        name: value of ``--strategy``.

    Raises:
        UsageError: for an unsupported strategy or an invalid TF_CONFIG.
        ValueError: for an unknown strategy.
    """
    from hydra_tf.core.registry import unknown

    if name in _UNSUPPORTED:
        raise UsageError(
            f"--strategy={name}: {_UNSUPPORTED[name]}; choose one of {', '.join(NAMES)}."
        )
    if name not in NAMES:
        raise ValueError(unknown("strategy", name, NAMES))
    if name == "multi_worker":
        _check_cluster(os.environ.get("TF_CONFIG"))


def _check_cluster(text: str | None) -> None:
    """Check that TF_CONFIG names the workers and says which of them this process is."""
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
        valid = 0 <= index < len(content["cluster"][task]) and set(content["cluster"]) <= {
            "chief",
            "worker",
        }
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        raise UsageError(
            f"TF_CONFIG must name the workers and say which of them this process is, as in "
            f"{example}; it is {text}."
        )


def worker_index(name: str) -> tuple[int, int]:
    """Return the index of this worker and their number; worker 0 writes the run's files.

    Args:
        name: a value of ``--strategy`` that :func:`check` accepts.
    """
    if name != "multi_worker":
        return 0, 1
    content = json.loads(os.environ["TF_CONFIG"])
    cluster, task = content["cluster"], content["task"]
    # TensorFlow counts the chief, if there is one, before the workers.
    before = len(cluster.get("chief", [])) if task["type"] == "worker" else 0
    return before + int(task["index"]), sum(map(len, cluster.values()))


def create(name: str) -> tf.distribute.Strategy:
    """Return the strategy; with several workers, call this before any other use of TensorFlow.

    Args:
        name: a value of ``--strategy`` that :func:`check` accepts.
    """
    import tensorflow as tf

    if name == "multi_worker":
        sys.stdout.write("Waiting for the other workers that TF_CONFIG names.\n")
        sys.stdout.flush()
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=_TIMEOUT)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


@contextlib.contextmanager
def explain_lost_worker(name: str) -> Iterator[None]:
    """Turn TensorFlow's errors about a lost worker into one sentence.

    Args:
        name: a value of ``--strategy`` that :func:`check` accepts.

    Raises:
        StoppedError: when a step failed because another worker has stopped.
    """
    import tensorflow as tf

    errors = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
    )
    try:
        yield
    except errors as error:
        if name != "multi_worker":
            raise
        raise StoppedError(
            "another worker has stopped; run the same command on all workers again to resume from "
            "the last checkpoint."
        ) from error
