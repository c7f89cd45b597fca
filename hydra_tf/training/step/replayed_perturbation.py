"""The perturbation that a replayed objective hands from batch to batch.

It is a weight of the model, so that it is saved and restored with it: [rows, ...] with room
for a whole first batch. Each replica of a tf.distribute strategy has rows of its own, but all
hold the whole, as any weight is held: a checkpoint is then that of any other training.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

TOO_MANY = (
    "A batch holds more images than the first batch that this model was trained on, which set "
    "how many perturbations it carries; keep to one batch size, or put the net into a new "
    "RobustModel."
)


def carried_shape(images: Any, replicas: int) -> tuple[int, ...]:
    """Return the shape of what is carried, for a batch shared out among replicas.

    Args:
        images: [batch, ...].
        replicas: number of replicas.

    Example:
        >>> carried_shape(tf.zeros([9, 8, 8, 1]), 2)
        (10, 8, 8, 1)
    """
    return (replicas * -(-len(images) // replicas), *map(int, images.shape[1:]))


def _own_rows(carried: Any) -> tuple[Any, int]:
    """First row of this replica, and how many it has."""
    rows = carried.shape[0] // tf.distribute.get_strategy().num_replicas_in_sync
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.cast(replica, tf.int32) * rows, rows


def take(carried: Any, x: tf.Tensor) -> tf.Tensor:
    """Return the perturbation of this replica's batch; a short batch takes the first rows.

    Args:
        carried: Keras variable of :func:`carried_shape`.
        x: [batch, ...] images of this replica.

    Raises:
        tf.errors.InvalidArgumentError: for a batch without room, with :data:`TOO_MANY`.
    """
    first, rows = _own_rows(carried)
    fits = tf.debugging.Assert(tf.shape(x)[0] <= rows, [TOO_MANY])
    with tf.control_dependencies([fits] if fits is not None else []):
        return tf.convert_to_tensor(carried)[first : first + tf.shape(x)[0]]


def put(carried: Any, delta: tf.Tensor) -> None:
    """Keep this replica's perturbation; rows that a short batch did not take stay.

    Args:
        carried: Keras variable of :func:`carried_shape`, aggregated by sum.
        delta: [batch, ...].
    """
    first, rows = _own_rows(carried)
    rest = tf.convert_to_tensor(carried)[first + tf.shape(delta)[0] : first + rows]
    others = [[0, 0]] * (len(carried.shape) - 1)
    # Zeros in the rows of the other replicas: the sum over all of them is the whole.
    after = carried.shape[0] - rows - first
    carried.assign(tf.pad(tf.concat([delta, rest], 0), [[first, after], *others]))
