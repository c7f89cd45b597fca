"""The pipeline as a loop over tf.distribute, with checkpoints that a run goes on from exactly.

`fit` is for a Keras user's own program. This loop runs the same steps
(:func:`hydra_tf.training.step.robust_step`) and the same callbacks, and adds what long runs
need: any strategy, also those of several workers, which Keras's `fit` does not serve;
checkpoints within an epoch, after which every bit is that of a run never interrupted; and an
orderly end when the machine is taken away.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from hydra_tf.core.pixels import unit_floats
from hydra_tf.training.callbacks.callback_order import arrange
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.long_runs.bad_batches import keep_suspects
from hydra_tf.training.long_runs.callback_state import remember, remembered
from hydra_tf.training.long_runs.checkpoints import Checkpoints, RunPosition, gathered, scatter
from hydra_tf.training.long_runs.loop_graphs import (
    judge_function,
    means,
    shared_out,
    train_function,
)
from hydra_tf.training.long_runs.loop_options import LoopOptions
from hydra_tf.training.long_runs.moving_average import MovingAverage
from hydra_tf.training.long_runs.preemption import PreemptionError, sigterm_noted
from hydra_tf.training.long_runs.run_identity import identity, require_same
from hydra_tf.training.step.batch_checks import plain_sentences
from hydra_tf.training.step.phases import PHASES, trained_variables


def train(
    model: Any,
    batches_from: Callable[[int, int], tf.data.Dataset],
    steps: int,
    pipeline: HydraCallback,
    *,
    validation: tf.data.Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoints: Checkpoints | None = None,
    options: LoopOptions | None = None,
    whole_from: Callable[[int, int], tf.data.Dataset] | None = None,
    suspects: str | None = None,
    verbose: int = 1,
) -> dict[str, float]:
    """Run the phases of a pipeline, from its beginning or from the newest checkpoint.

    Model and optimizer are made under the scope of the strategy. Metrics are loss, accuracy
    and robust accuracy, whatever was compiled.

    Args:
        model: a compiled :class:`hydra_tf.RobustModel`.
        batches_from: maps (epoch, step) to endless batches of (images, labels) that begin
            there, a pure function; images are floats in [0, 1], or uint8 in [0, 255], which are
            divided by 255 on the device. On several workers each must get the same batches, of
            which only its own share has to be right.
        steps: batches of an epoch.
        pipeline: the phases.
        validation: batches to judge each epoch on.
        callbacks: Keras callbacks; those that write files belong on the chief alone. What
            EarlyStopping, ReduceLROnPlateau and ModelCheckpoint remember is kept in a checkpoint;
            others begin anew after a restart.
        checkpoints: where the run is kept; None keeps nothing.
        options: see :class:`LoopOptions`.
        whole_from: as `batches_from`, on several workers with every image of a batch: SNIP takes
            its gradients from the first one, and `suspects` are these; by default the same.
        suspects: file (.npz) that gets the batches of a step whose loss is not finite.
        verbose: as in Keras.

    Returns:
        The metrics of the last epoch, none where nothing was left to do.

    Raises:
        PreemptionError: after SIGTERM, once the checkpoint is written.
        FloatingPointError: when the loss is not finite; see :class:`hydra_tf.training.NaNGuard`.
        ValueError: for data that do not fit the model, or a checkpoint of another run.
    """
    with sigterm_noted() as asked, plain_sentences():
        whole_from = whole_from or batches_from
        keep = functools.partial(_keep_suspects, suspects, whole_from)
        loop = _Loop(model, pipeline, steps, checkpoints, options or LoopOptions(), keep)
        model.first_batch = model.check_data(whole_from(0, 0).map(lambda x, y: (unit_floats(x), y)))
        return loop.run(batches_from, validation, callbacks, asked, verbose)


def _keep_suspects(path: str | None, whole_from: Any, position: RunPosition, count: int) -> None:
    """Write the batches of so many steps, which made what is not finite."""
    if path is not None:
        keep_suspects(path, whole_from(position.epoch, position.step).take(count), position)


class _Then(keras.callbacks.Callback):
    """Does something once those before it have begun, and before those after it."""

    def __init__(self, what: Callable[[], None]) -> None:
        super().__init__()
        self._what = what

    def on_train_begin(self, logs: Any = None) -> None:
        self._what()


class _Loop:
    """One run of :func:`train`."""

    def __init__(
        self,
        model: Any,
        pipeline: HydraCallback,
        steps: int,
        checkpoints: Checkpoints | None,
        options: LoopOptions,
        keep_suspects: Callable[[RunPosition, int], None],
    ) -> None:
        self.model, self.pipeline, self.steps = model, pipeline, steps
        self.checkpoints, self.options, self.keep_suspects = checkpoints, options, keep_suspects
        self.strategy = model.distribute_strategy
        self.position, self.sums = RunPosition(), np.zeros(6)
        self.callbacks: Sequence[Any] = ()
        self._restored: Mapping[str, Any] = {}
        self._count = 1  # steps of the last execution
        self.average: MovingAverage | None = None
        self._functions: dict[int, Any] = {}
        self._functions_of: Any = None
        self._saved_at = time.monotonic()

    def run(
        self,
        batches_from: Callable[[int, int], tf.data.Dataset],
        validation: tf.data.Dataset | None,
        callbacks: Sequence[Any],
        asked: Callable[[], bool],
        verbose: int,
    ) -> dict[str, float]:
        """Do what :func:`train` says."""
        model, self.callbacks = self.model, callbacks
        if validation is not None:
            model.check_data(validation)
        model.prepare()
        if self.options.average is not None:
            with self.strategy.scope():
                weights = trained_variables(model.net, PHASES["pretrain"])
                self.average = MovingAverage(weights, self.options.average)
        self.judge = judge_function(model, self.strategy)
        first, *others = arrange([self.pipeline, *callbacks], verbose, moves_rate=False)
        watchers = keras.callbacks.CallbackList(
            [first, _Then(self._restore), *others, _Then(self._recall)],
            model=model,
            verbose=verbose,
            epochs=self.pipeline.epochs,
            steps=self.steps,
        )
        model.stop_training = False
        watchers.on_train_begin()
        logs: dict[str, float] = {}
        stopped = self.position.step == 0 and model.stop_training
        if self.position.epoch == self.pipeline.epochs or stopped:
            # A run that was interrupted after its last epoch, or asked to stop before its first.
            if self.position.epoch:
                self.pipeline.on_epoch_begin(self.position.epoch - 1)
            watchers.on_train_end(logs)
            return logs
        # A checkpoint may stand behind the last step of an epoch that was not judged yet.
        past, step = divmod(self.position.step, self.steps)
        batches = batches_from(self.position.epoch + past, step)
        iterator = iter(shared_out(batches, self.strategy))
        # One that was stopped within an epoch has this epoch to be judged.
        while self.position.step or not (
            model.stop_training or self.position.epoch == self.pipeline.epochs
        ):
            logs = self._epoch(iterator, validation, watchers, asked)
        watchers.on_train_end(logs)
        return logs

    def _epoch(
        self, iterator: Any, validation: Any, watchers: Any, asked: Callable[[], bool]
    ) -> dict[str, float]:
        """Train to the end of an epoch and judge it."""
        epoch = self.position.epoch
        before = int(np.asarray(self.model.phase_entered))
        watchers.on_epoch_begin(epoch)
        if self.average is not None and before != int(np.asarray(self.model.phase_entered)):
            self.average.start()
        while self.position.step < self.steps and not self.model.stop_training:
            self._execute(iterator, watchers, asked)
        if not self.position.step:  # stopped as it began
            return {}
        if asked() and self.strategy.cluster_resolver is None:
            self._stop()  # several workers stop together, at their next step
        logs = means(self.sums)
        phase, first = self.pipeline.phase_at(epoch)
        average = None if PHASES[phase].trains_scores else self.average
        if average is not None:
            average.swap()
        if validation is not None:
            logs |= self._judged(validation, watchers)
        try:
            watchers.on_epoch_end(epoch, logs)
        except FloatingPointError:  # weights that the last step has ruined
            self.keep_suspects(RunPosition(epoch, self.position.step - self._count), self._count)
            raise
        last = epoch + 1 == first + self.pipeline.plan[phase] or self.model.stop_training
        if average is not None and not last:  # a phase ends with it, and the next begins there
            average.swap()
        self.position, self.sums = RunPosition(epoch + 1, 0), np.zeros(6)
        self._save()
        return logs

    def _execute(self, iterator: Any, watchers: Any, asked: Callable[[], bool]) -> None:
        """Make a few steps; stop after them if that was asked for."""
        epoch, done = self.position.epoch, self.position.step
        count = min(self.options.steps_per_execution, self.steps - done)
        watchers.on_train_batch_begin(done)
        rates = self.pipeline.rates(count)
        execute = self._function(count, rates is not None)
        given = tf.constant(rates or [0.0] * count, tf.float32)
        sums = np.asarray(execute(iterator, given, tf.constant(float(asked()))), np.float64)
        if rates is not None:
            self.model.compiled_rate.moved(rates[-1])
        self.sums += sums
        if not np.isfinite(sums[1]):
            self.keep_suspects(RunPosition(epoch, done), count)
        self._count = count
        self.position = RunPosition(epoch, done + count)
        logs = means(self.sums)
        watchers.on_train_batch_end(done + count - 1, logs)
        if sums[-1] > 0:
            self._stop()
        if time.monotonic() - self._saved_at >= self.options.checkpoint_seconds:
            self._save()

    def _stop(self) -> None:
        """Write a checkpoint of this place and leave."""
        self._save()
        where = f"Told to stop after epoch {self.position.epoch + 1}, step {self.position.step}"
        if self.checkpoints is None:
            raise PreemptionError(f"{where}.")
        raise PreemptionError(
            f"{where}, which a checkpoint holds; the same command goes on from there."
        )

    def _function(self, count: int, moves_rate: bool) -> Any:
        """The graph of a few steps, traced anew for each phase."""
        phase = (self.model.phase, self.model.phase_steps, moves_rate)
        if self._functions_of != phase:
            self._functions, self._functions_of = {}, phase
        if count not in self._functions:
            follows = self.average if not self.model.phase.trains_scores else None
            self._functions[count] = train_function(
                self.model, self.strategy, count, self.options.step, follows, moves_rate
            )
        return self._functions[count]

    def _judged(self, validation: tf.data.Dataset, watchers: Any) -> dict[str, float]:
        """The metrics of the validation data."""
        total = np.zeros(6)
        watchers.on_test_begin()
        for i, batch in enumerate(shared_out(validation, self.strategy, fill=True)):
            watchers.on_test_batch_begin(i)
            total += np.asarray(self.judge(batch), np.float64)
            watchers.on_test_batch_end(i, means(total))
        watchers.on_test_end(means(total))
        return means(total, "val_")

    def _save(self) -> None:
        """Write a checkpoint of this place."""
        if self.checkpoints is None or not self.checkpoints.writes:
            return
        averages = self.average.variables if self.average else []
        arrays = {
            **gathered(self.model.variables, "model"),
            **gathered(self.model.optimizer.variables, "optimizer"),
            **gathered(averages, "average"),
            **self.pipeline.best.arrays(),
            **remembered(self.callbacks),
            "sums": self.sums,
            "stopped": self.model.stop_training,
            "run": json.dumps(self._identity()),
        }
        self.checkpoints.save(self.position, arrays)
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        """Go to the newest checkpoint, if there is one."""
        found = self.checkpoints.newest() if self.checkpoints else None
        self._agree(RunPosition() if found is None else found[0])
        if found is None or self.checkpoints is None:
            return
        self.position, arrays = found
        require_same(str(arrays.get("run", "{}")), self._identity(), self.checkpoints.folder)
        scatter(self.model.variables, "model", arrays)
        scatter(self.model.optimizer.variables, "optimizer", arrays)
        scatter(self.average.variables if self.average else [], "average", arrays)
        self.pipeline.best.take_up(arrays)
        # A warning, to be seen: the progress bar begins in the middle.
        logging.warning(
            "hydra_tf: goes on behind epoch %d, step %d, from a checkpoint in %s.",
            *(self.position.epoch, self.position.step, self.checkpoints.folder),
        )
        self.sums, self._restored = arrays["sums"], arrays
        self.model.stop_training = bool(arrays["stopped"])
        if self.pipeline.sets_rates:
            self.model.compiled_rate.moved(float(np.asarray(self.model.optimizer.learning_rate)))

    def _recall(self) -> None:
        """Have callbacks, which begin anew with the training, remember what a checkpoint holds."""
        remember(self.callbacks, self._restored)
        self._restored = {}

    def _identity(self) -> dict[str, Any]:
        """What makes this run the one that a checkpoint belongs to."""
        return identity(self.model, self.pipeline, self.steps, self.options)

    def _agree(self, position: RunPosition) -> None:
        """Refuse to start where other workers do not.

        Raises:
            ValueError: when they have found other checkpoints.
        """
        if self.strategy.cluster_resolver is None:
            return
        own = tf.constant([float(position.epoch), float(position.step)])
        total = self.strategy.reduce(
            tf.distribute.ReduceOp.SUM, self.strategy.run(lambda: own), axis=None
        )
        if not np.array_equal(total, own * self.strategy.num_replicas_in_sync):
            raise ValueError(
                "The workers have found different checkpoints; their folder must be one that all "
                "of them share."
            )
