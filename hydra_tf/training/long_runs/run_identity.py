"""Checks that a checkpoint belongs to this run, and that all workers resume from the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from hydra_tf.checks.labels import sparse_labels
from hydra_tf.objectives import OBJECTIVES
from hydra_tf.training.callbacks.density_ramp import schedule_config
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.long_runs.checkpoints import RunPosition
from hydra_tf.training.long_runs.loop_options import LoopOptions
from hydra_tf.training.robust_model import RobustModel
from hydra_tf.training.step.optimizer import optimizer_settings

_DATA = "data"
_OBJECTIVE = "objective"


def run_identity(
    model: RobustModel,
    pipeline: HydraCallback,
    steps_per_epoch: int,
    options: LoopOptions,
    data_hash: str | None = None,
) -> dict[str, Any]:
    """Return the settings that determine a run, apart from its network.

    Settings that may change when a run resumes, even if they change bits, are left out: devices,
    microbatches, XLA.

    Args:
        model: a compiled :class:`hydra_tf.RobustModel`.
        pipeline: the phases.
        steps_per_epoch: batches of an epoch.
        options: options of the loop.
        data_hash: hash of the training data.

    Returns:
        A mapping that can be written as JSON; callables are represented by their names.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> model = hydra_tf.RobustModel(net, "natural")
        >>> model.compile("sgd")
        >>> run_identity(model, HydraCallback(0.1, 1, 1, 1), 10, LoopOptions())["phases"]
        {'pretrain': 1, 'prune': 1, 'finetune': 1}
    """
    settings = optimizer_settings(model.optimizer).items()
    optimizer = {key: value for key, value in settings if key not in ("name", "learning_rate")}
    # The keys are part of the file format of checkpoints.
    content = {
        "seed": model.seed,
        _OBJECTIVE: _objective_config(model.objective),
        "steps of an epoch": steps_per_epoch,
        "phases": pipeline.plan,
        "method": pipeline.method,
        "density": pipeline.density,
        "allocation": pipeline.allocation,
        "granularity": pipeline.granularity,
        "density schedule": schedule_config(pipeline.density_schedule),
        # None by default, as in checkpoints of older versions, which do not have these keys.
        "density schedule phase": pipeline.ramp.phase if pipeline.ramp.is_gradual else None,
        "score perturbation": pipeline.score_perturbation or None,
        "learning rate": [
            pipeline.learning_rate, pipeline.schedule, pipeline.warmup, model.compiled_rate.rate,
        ],
        "optimizer": [type(model.optimizer).__name__, optimizer],
        "average": options.average,
        "clip_norm": options.step.global_clipnorm,
        "best epoch": [pipeline.monitor, pipeline.restore_best_weights],
        "trained BatchNorm": model.train_batchnorm,
        _DATA: data_hash,
    }  # fmt: skip
    identity: dict[str, Any] = json.loads(json.dumps(content, default=_as_json))
    return identity


def require_same_run(stored: str, identity: Mapping[str, Any], folder: str) -> None:
    """Check that a checkpoint belongs to this run.

    Args:
        stored: the :func:`run_identity` in the checkpoint, as JSON.
        identity: the :func:`run_identity` of this run.
        folder: folder of the checkpoint.

    Raises:
        ValueError: with the settings that differ, or for other training data.

    Example:
        >>> require_same_run('{"seed": 0}', {"seed": 0}, "runs/a/checkpoints")
    """
    before = json.loads(stored)
    if before.get(_DATA) is None:  # of an older version
        before[_DATA] = identity.get(_DATA)
    before[_OBJECTIVE] = _completed(before.get(_OBJECTIVE))
    differing = [k for k in {**before, **identity} if before.get(k) != identity.get(k)]
    if differing == [_DATA]:
        raise ValueError(
            f"The training images or labels, or their order, have changed since the checkpoint in "
            f"{folder} was written; restore them (a shuffled dataset needs a fixed seed), or train "
            "from the beginning in another folder."
        )
    if differing:
        raise ValueError(
            f"The checkpoint in {folder} belongs to another run, which differs in: "
            f"{', '.join(differing)}; name another folder, or remove this one."
        )


def first_labels_hash(batches: tf.data.Dataset) -> str:
    """Return a hash of the labels of the first batch.

    Args:
        batches: (images, labels), in the same order each time.

    Example:
        >>> data = tf.data.Dataset.from_tensors((tf.zeros([2, 4]), [0, 1]))
        >>> first_labels_hash(data) == first_labels_hash(data.repeat())
        True
    """
    labels = [np.asarray(sparse_labels(y)).tobytes() for _, y in batches.take(1)]
    return hashlib.sha256(b"".join(labels)).hexdigest()[:12]


def _objective_config(objective: Any) -> Any:
    """Return the parameters of an objective, or the name of a callable that is not registered."""
    try:
        return OBJECTIVES.config(objective)
    except TypeError:
        return _as_json(objective)


def _completed(config: Any) -> Any:
    """Return the config of an objective with the parameters that an older version did not have."""
    if not isinstance(config, Mapping):
        return config
    try:
        return json.loads(json.dumps(OBJECTIVES.config(OBJECTIVES.build(config))))
    except (TypeError, ValueError):  # the config of another version, which has other parameters
        return config


def _as_json(value: Any) -> Any:
    """Return a JSON value for a NumPy scalar, an object with a config, or another object's name."""
    if isinstance(value, np.generic):
        return value.item()
    name = getattr(value, "__name__", type(value).__name__)
    return [name, value.get_config()] if hasattr(value, "get_config") else name


def require_same_position(strategy: tf.distribute.Strategy, position: RunPosition) -> None:
    """Check that all workers start at the same position.

    Args:
        strategy: the strategy of the run; without a cluster, nothing is compared.
        position: position of the checkpoint that this worker has found.

    Raises:
        ValueError: when the workers have found different checkpoints.

    Example:
        >>> require_same_position(tf.distribute.get_strategy(), RunPosition(1, 0))
    """
    if strategy.cluster_resolver is None:
        return
    local = tf.constant([float(position.epoch), float(position.step)])
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: local), axis=None)
    if not np.array_equal(total, local * strategy.num_replicas_in_sync):
        raise ValueError(
            "The workers have found different checkpoints; all of them must use one shared folder."
        )
