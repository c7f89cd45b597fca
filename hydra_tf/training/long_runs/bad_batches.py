"""The batches of a step whose loss is not finite, stored for diagnosis."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from hydra_tf.core.files import replacing
from hydra_tf.core.pixels import unit_floats
from hydra_tf.training.long_runs.checkpoints import RunPosition


def store_bad_batches(path: str, batches: tf.data.Dataset, position: RunPosition) -> None:
    """Write batches to a file; warn if they cannot be read or written.

    Args:
        path: file (.npz) of images [n, ...] in [0, 1], labels, and the epoch and step of the
            first batch, counted from 0.
        batches: (images, labels).
        position: position of the first batch in the run.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "suspects.npz")
        >>> data = tf.data.Dataset.from_tensors((tf.zeros([2, 4]), tf.constant([0, 1])))
        >>> store_bad_batches(path, data, RunPosition(0, 3))
        >>> int(np.load(path)["step"])
        3
    """
    try:
        pairs = [(np.asarray(unit_floats(x)), np.asarray(y)) for x, y in batches]
        images, labels = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
        with replacing(path, ".npz") as temporary:
            np.savez(temporary, images=images, labels=labels, **dataclasses.asdict(position))
    except (OSError, ValueError, tf.errors.OpError) as error:  # the loss is the error to raise
        logging.warning("hydra_tf: %s cannot be written: %s", path, error)
