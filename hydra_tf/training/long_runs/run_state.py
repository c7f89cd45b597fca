"""How far a run has come, and the checkpoints that store it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from hydra_tf.sparsity.model import masked_layers
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.long_runs.callback_state import callback_state, restore_callback_state
from hydra_tf.training.long_runs.checkpoints import (
    Checkpoints,
    RunPosition,
    restore_variables,
    variable_arrays,
)
from hydra_tf.training.long_runs.loop_graphs import MetricSums
from hydra_tf.training.long_runs.loop_options import LoopOptions
from hydra_tf.training.long_runs.moving_average import MovingAverage
from hydra_tf.training.long_runs.run_identity import (
    require_same_position,
    require_same_run,
    run_identity,
)
from hydra_tf.training.robust_model import RobustModel


class RunState:
    """Position, metrics and moving average of one run, with all that its checkpoints contain.

    Args:
        model: the compiled model.
        pipeline: the phases.
        steps_per_epoch: batches of an epoch.
        checkpoints: where checkpoints are stored; None for none.
        options: see :class:`LoopOptions`.
        data_hash: hash of the training data, None without checkpoints.
    """

    def __init__(
        self,
        model: RobustModel,
        pipeline: HydraCallback,
        steps_per_epoch: int,
        checkpoints: Checkpoints | None,
        options: LoopOptions,
        data_hash: str | None,
    ) -> None:
        self._model, self._pipeline, self._steps_per_epoch = model, pipeline, steps_per_epoch
        self.checkpoints, self._options, self._data_hash = checkpoints, options, data_hash
        self.position, self.sums = RunPosition(), MetricSums()
        self.average: MovingAverage | None = None
        self.callbacks: Sequence[keras.callbacks.Callback] = ()
        self._restored: Mapping[str, Any] = {}
        self._saved_at = time.monotonic()

    def save_if_due(self) -> None:
        """Write a checkpoint if the newest one is older than the options allow."""
        if time.monotonic() - self._saved_at >= self._options.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the current position."""
        if self.checkpoints is None or not self.checkpoints.writes:
            return
        averages = self.average.variables if self.average else []
        arrays = {
            **variable_arrays(self._model.variables, "model"),
            **variable_arrays(self._model.optimizer.variables, "optimizer"),
            **variable_arrays(averages, "average"),
            **self._pipeline.best.arrays(),
            **self._pipeline.ramp.arrays(),
            **callback_state(self.callbacks),
            "joint_budgets": np.array([k.joint_budget.numpy() for k in masked_layers(self._model)]),
            "sums": np.asarray(self.sums, np.float64),
            "stopped": self._model.stop_training,
            "run": json.dumps(self._identity()),
        }
        self.checkpoints.save(self.position, arrays)
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Restore the newest checkpoint, if there is one."""
        newest = self.checkpoints.newest() if self.checkpoints else None
        strategy = self._model.distribute_strategy
        require_same_position(strategy, RunPosition() if newest is None else newest[0])
        if newest is None or self.checkpoints is None:
            return
        self.position, arrays = newest
        require_same_run(str(arrays.get("run", "{}")), self._identity(), self.checkpoints.folder)
        restore_variables(self._model.variables, "model", arrays)
        restore_variables(self._model.optimizer.variables, "optimizer", arrays)
        restore_variables(self.average.variables if self.average else [], "average", arrays)
        budgets = arrays.get("joint_budgets", ())  # absent in checkpoints of older versions
        for layer, budget in zip(masked_layers(self._model), budgets, strict=False):
            layer.joint_budget.assign(budget)
        self._pipeline.best.load_arrays(arrays)
        self._pipeline.ramp.load_arrays(arrays)
        # A warning, so that it is visible: the progress bar starts in the middle.
        logging.warning(
            "hydra_tf: resumes after epoch %d, step %d, from a checkpoint in %s.",
            *(self.position.epoch, self.position.step, self.checkpoints.folder),
        )
        self.sums, self._restored = MetricSums(*map(float, arrays["sums"])), arrays
        self._model.stop_training = bool(arrays["stopped"])
        if self._pipeline.has_schedule:
            self._model.compiled_rate.note(float(np.asarray(self._model.optimizer.learning_rate)))

    def restore_callbacks(self) -> None:
        """Restore the state of callbacks after they have reset it, when training begins."""
        restore_callback_state(self.callbacks, self._restored)
        self._restored = {}

    def _identity(self) -> dict[str, Any]:
        """Return the settings that identify this run."""
        return run_identity(
            self._model, self._pipeline, self._steps_per_epoch, self._options, self._data_hash
        )
