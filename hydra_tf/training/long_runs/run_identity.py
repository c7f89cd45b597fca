"""What makes a run the one that a checkpoint belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from hydra_tf.objectives import OBJECTIVES
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.long_runs.loop_options import LoopOptions
from hydra_tf.training.step.optimizer import settings_of


def identity(
    model: Any, pipeline: HydraCallback, steps: int, options: LoopOptions
) -> dict[str, Any]:
    """Return what the rest of a run follows from, but for its data and its network.

    Left out is what a run may change under way, if to other bits: devices, parts, XLA.

    Args:
        model: a compiled :class:`hydra_tf.RobustModel`.
        pipeline: the phases.
        steps: batches of an epoch.
        options: how the loop runs.

    Returns:
        A mapping that JSON can hold; callables stand in it by their names.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> model = hydra_tf.RobustModel(net, "natural")
        >>> model.compile("sgd")
        >>> identity(model, HydraCallback(0.1, 1, 1, 1), 10, LoopOptions())["phases"]
        {'pretrain': 1, 'prune': 1, 'finetune': 1}
    """
    settings = settings_of(model.optimizer).items()
    optimizer = {key: value for key, value in settings if key not in ("name", "learning_rate")}
    content = {
        "seed": model.seed,
        "objective": _objective(model.objective),
        "steps of an epoch": steps,
        "phases": pipeline.plan,
        "method": pipeline.method,
        "density": pipeline.density,
        "allocation": pipeline.allocation,
        "granularity": pipeline.granularity,
        "learning rate": [
            pipeline.learning_rate, pipeline.schedule, pipeline.warmup, model.compiled_rate.rate,
        ],
        "optimizer": [type(model.optimizer).__name__, optimizer],
        "average": options.average,
        "clip_norm": options.step.clip_norm,
        "best epoch": [pipeline.monitor, pipeline.restore_best],
        "trained BatchNorm": model.train_batchnorm,
    }  # fmt: skip
    found: dict[str, Any] = json.loads(json.dumps(content, default=_name))
    return found


def require_same(kept: str, now: Mapping[str, Any], folder: str) -> None:
    """Refuse the checkpoint of another run.

    Args:
        kept: the :func:`identity` in the checkpoint, as JSON.
        now: that of this run.
        folder: where the checkpoint is.

    Raises:
        ValueError: with what the two differ in.

    Example:
        >>> require_same('{"seed": 0}', {"seed": 0}, "runs/a/checkpoints")
    """
    before = json.loads(kept)
    unlike = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if unlike:
        raise ValueError(
            f"The checkpoint in {folder} is of another run, which differs in: {', '.join(unlike)}; "
            "name another folder, or remove this one."
        )


def _objective(objective: Any) -> Any:
    """The parameters of an objective, or the name of a callable that is none of ours."""
    try:
        return OBJECTIVES.config(objective)
    except TypeError:
        return _name(objective)


def _name(value: Any) -> Any:
    """What JSON cannot hold: the number of a NumPy scalar, the name of anything else."""
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "__name__", type(value).__name__)
