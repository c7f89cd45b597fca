"""The perturbation that a replayed objective carries from one batch to the next.

It is a weight of the model, [rows, ...], so that it is saved and restored with the model. It has
as many rows as the first batch. Each replica of a tf.distribute strategy updates its own rows,
but every replica stores all of them, like any other weight, so that a checkpoint does not depend
on the number of replicas.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from hydra_tf.core.types import Images

TOO_MANY = (
    "A batch has more images than the first batch that this model was trained on, which set the "
    "number of stored perturbations; use one batch size throughout, or put the net into a new "
    "RobustModel."
)


def perturbation_shape(images: Images, replicas: int) -> tuple[int, ...]:
    """Return the shape of the stored perturbation of a batch that replicas share.

    Args:
        images: [batch, ...].
        replicas: number of replicas.

    Example:
        >>> perturbation_shape(tf.zeros([9, 8, 8, 1]), 2)
        (10, 8, 8, 1)
    """
    return (replicas * -(-len(images) // replicas), *map(int, images.shape[1:]))


def _replica_rows(stored: keras.Variable) -> tuple[tf.Tensor, int]:
    """Return the first row of this replica, and its number of rows."""
    rows = stored.shape[0] // tf.distribute.get_strategy().num_replicas_in_sync
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.cast(replica, tf.int32) * rows, rows


def read_perturbation(stored: keras.Variable, x: Images) -> tf.Tensor:
    """Return the perturbation of this replica's batch; a short batch uses the first rows.

    Args:
        stored: variable of :func:`perturbation_shape`.
        x: [batch, ...] images of this replica.

    Raises:
        tf.errors.InvalidArgumentError: for a batch larger than the first one, with
            :data:`TOO_MANY`.
    """
    first, rows = _replica_rows(stored)
    fits = tf.debugging.Assert(tf.shape(x)[0] <= rows, [TOO_MANY])
    with tf.control_dependencies([fits] if fits is not None else []):
        return tf.convert_to_tensor(stored)[first : first + tf.shape(x)[0]]


def store_perturbation(stored: keras.Variable, delta: tf.Tensor) -> None:
    """Store this replica's perturbation; rows beyond a short batch keep their values.

    Args:
        stored: variable of :func:`perturbation_shape`, aggregated by sum.
        delta: [batch, ...].
    """
    first, rows = _replica_rows(stored)
    rest = tf.convert_to_tensor(stored)[first + tf.shape(delta)[0] : first + rows]
    other_axes = [[0, 0]] * (len(stored.shape) - 1)
    # The rows of other replicas are zeros here, so the sum over replicas has all rows.
    after = stored.shape[0] - rows - first
    stored.assign(tf.pad(tf.concat([delta, rest], 0), [[first, after], *other_axes]))
