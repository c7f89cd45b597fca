"""The pipeline as a loop over tf.distribute, with checkpoints that a run resumes from exactly.

`fit` is for a Keras user's own program. This loop runs the same steps
(:func:`hydra_tf.training.robust_step`) and the same callbacks, and adds what long runs
need: every strategy, including those of several workers, which Keras's `fit` does not support;
checkpoints within an epoch, from which a run resumes bit for bit; and a clean stop when the
machine is preempted.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.core.pixels import unit_floats
from hydra_tf.sparsity.model import selection_settings
from hydra_tf.training.callbacks.callback_order import ordered_callbacks
from hydra_tf.training.callbacks.pipeline import HydraCallback
from hydra_tf.training.long_runs.bad_batches import store_bad_batches
from hydra_tf.training.long_runs.checkpoints import Checkpoints, RunPosition
from hydra_tf.training.long_runs.loop_graphs import (
    MetricSums,
    distribute_batches,
    evaluate_function,
    train_function,
)
from hydra_tf.training.long_runs.loop_options import LoopOptions, require_own_options
from hydra_tf.training.long_runs.moving_average import MovingAverage
from hydra_tf.training.long_runs.preemption import PreemptionError, sigterm_deferred
from hydra_tf.training.long_runs.run_identity import first_labels_hash
from hydra_tf.training.long_runs.run_state import RunState
from hydra_tf.training.robust_model import RobustModel
from hydra_tf.training.step.batch_checks import plain_sentences
from hydra_tf.training.step.phases import PHASES, trained_variables

BatchesFrom = Callable[[int, int], tf.data.Dataset]


def train(
    model: RobustModel,
    batches_from: BatchesFrom,
    steps_per_epoch: int | None = None,
    pipeline: HydraCallback | None = None,
    *,
    validation_data: tf.data.Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoints: Checkpoints | None = None,
    options: LoopOptions | None = None,
    full_batches_from: BatchesFrom | None = None,
    bad_batches_path: str | None = None,
    data_hash: str | None = None,
    verbose: int = 1,
    steps: int | None = None,
    validation: tf.data.Dataset | None = None,
) -> dict[str, float]:
    """Run the phases of a pipeline, from the beginning or from the newest checkpoint.

    Create model and optimizer within the scope of the strategy. The metrics are loss, accuracy
    and robust accuracy, whatever was compiled.

    Args:
        model: a compiled :class:`hydra_tf.RobustModel`.
        batches_from: pure function that maps (epoch, step) to an endless dataset of (images,
            labels) batches from there on; images are floats in [0, 1], or uint8 in [0, 255],
            which are divided by 255 on the device. All workers must get the same batches, but
            a worker only needs the images of its slices.
        steps_per_epoch: batches of an epoch.
        pipeline: the phases.
        validation_data: batches on which each epoch is evaluated.
        callbacks: Keras callbacks; those that write files belong on the chief only. The state of
            EarlyStopping, ReduceLROnPlateau and ModelCheckpoint is part of a checkpoint; other
            callbacks start again after a restart.
        checkpoints: where checkpoints are stored; None for none.
        options: see :class:`LoopOptions`.
        full_batches_from: like `batches_from`, but with every image of a batch on every worker,
            for the gradients of SNIP and to store bad batches; by default the same function.
        bad_batches_path: file (.npz) for the batches of a step whose loss is not finite.
        data_hash: hash of the training data, such as ``DataSplits.fingerprint()``. A run resumes
            only if it is that of the checkpoint; by default, it is that of the first labels.
        verbose: as in Keras.
        steps: deprecated name of `steps_per_epoch`.
        validation: deprecated name of `validation_data`.

    Returns:
        The metrics of the last epoch, empty if no epoch was left.

    Raises:
        PreemptionError: after SIGTERM, once the checkpoint is written.
        FloatingPointError: when the loss is not finite; see :class:`hydra_tf.training.NaNGuard`.
        TypeError: without steps or pipeline.
        ValueError: for data that do not fit the model, a checkpoint of another run, or a model
            compiled with steps_per_execution or run_eagerly.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> model = RobustModel(net, objective="natural")
        >>> model.compile("sgd")
        >>> batch = (np.eye(2, dtype="float32"), np.arange(2))
        >>> data = tf.data.Dataset.from_tensors(batch).repeat()
        >>> pipeline = HydraCallback(
        ...     density=0.5, pretrain_epochs=1, prune_epochs=1, finetune_epochs=1
        ... )
        >>> metrics = train(model, lambda epoch, step: data, 2, pipeline, verbose=0)
        >>> sorted(metrics)
        ['accuracy', 'loss']
    """
    steps_per_epoch = _renamed("steps", steps, "steps_per_epoch", steps_per_epoch)
    validation_data = _renamed("validation", validation, "validation_data", validation_data)
    if steps_per_epoch is None or pipeline is None:
        raise TypeError("train needs steps_per_epoch and a pipeline, a hydra_tf.HydraCallback.")
    with sigterm_deferred() as told_to_stop, plain_sentences():
        full_batches_from = full_batches_from or batches_from
        store = functools.partial(_store_bad_batches, bad_batches_path, full_batches_from)
        options = options or LoopOptions()
        require_own_options(model)
        first = full_batches_from(0, 0).map(lambda x, y: (unit_floats(x), y))
        model.check_training_data(first)
        data_hash = (data_hash or first_labels_hash(first)) if checkpoints is not None else None
        loop = _Loop(model, pipeline, steps_per_epoch, checkpoints, options, data_hash, store)
        return loop.run(batches_from, validation_data, callbacks, told_to_stop, verbose)


def _renamed(old: str, old_value: Any, new: str, value: Any) -> Any:
    """Return the value of an argument that may be passed under its deprecated name."""
    if old_value is None:
        return value
    warnings.warn(
        f"hydra_tf.training.train({old}=...) is deprecated; use {new}.",
        DeprecationWarning,
        stacklevel=3,
    )
    return old_value


def _store_bad_batches(
    path: str | None, batches_from: BatchesFrom, position: RunPosition, count: int
) -> None:
    """Store the batches of the steps whose result is not finite, if a path was given."""
    if path is not None:
        batches = batches_from(position.epoch, position.step).take(count)
        store_bad_batches(path, batches, position)


class _OnTrainBegin(keras.callbacks.Callback):
    """Calls a function after the callbacks before it have begun, and before those after it."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__()
        self._function = function

    def on_train_begin(self, logs: Any = None) -> None:
        self._function()


class _Loop:
    """One run of :func:`train`."""

    def __init__(
        self,
        model: RobustModel,
        pipeline: HydraCallback,
        steps_per_epoch: int,
        checkpoints: Checkpoints | None,
        options: LoopOptions,
        data_hash: str | None,
        store_bad_batches: Callable[[RunPosition, int], None],
    ) -> None:
        self.model, self.pipeline, self.steps_per_epoch = model, pipeline, steps_per_epoch
        self.options = options
        self.store_bad_batches = store_bad_batches
        self.strategy = model.distribute_strategy
        self.state = RunState(model, pipeline, steps_per_epoch, checkpoints, options, data_hash)
        self._last_steps = 1  # number of steps in the last execution
        self._graphs: dict[int, Callable[..., tf.Tensor]] = {}
        self._graphs_key: Any = None

    def run(
        self,
        batches_from: BatchesFrom,
        validation_data: tf.data.Dataset | None,
        callbacks: Sequence[keras.callbacks.Callback],
        told_to_stop: Callable[[], bool],
        verbose: int,
    ) -> dict[str, float]:
        """Run all epochs that are left; see :func:`train`."""
        model, state = self.model, self.state
        state.callbacks = callbacks
        if validation_data is not None:
            model.check_data(validation_data)
        model.prepare_training()
        if self.options.average is not None:
            with self.strategy.scope():
                weights = trained_variables(model.net, PHASES["pretrain"])
                state.average = MovingAverage(weights, self.options.average)
        self.evaluate = evaluate_function(model, self.strategy)
        callback_list = self._callback_list(callbacks, verbose)
        model.stop_training = model.gradient_watch.warned = False
        callback_list.on_train_begin()
        logs: dict[str, float] = {}
        stopped = state.position.step == 0 and model.stop_training
        if state.position.epoch == self.pipeline.epochs or stopped:
            # The run was interrupted after its last epoch, or stopped by a callback.
            if state.position.epoch:
                self.pipeline.resume_phase(state.position.epoch - 1)
            callback_list.on_train_end(logs)
            return logs
        # The checkpoint may follow the last step of an epoch that was not yet evaluated.
        finished, step = divmod(state.position.step, self.steps_per_epoch)
        batches = batches_from(state.position.epoch + finished, step)
        iterator = iter(distribute_batches(batches, self.strategy))
        # A run that was stopped within an epoch still has to evaluate this epoch.
        while state.position.step or not (
            model.stop_training or state.position.epoch == self.pipeline.epochs
        ):
            logs = self._epoch(iterator, validation_data, callback_list, told_to_stop)
        callback_list.on_train_end(logs)
        return logs

    def _callback_list(
        self, callbacks: Sequence[keras.callbacks.Callback], verbose: int
    ) -> keras.callbacks.CallbackList:
        """Return pipeline and callbacks in order, with the steps that restore a checkpoint."""
        first, *others = ordered_callbacks(
            [self.pipeline, *callbacks],
            verbose,
            sets_rate=False,
            steps_per_execution=self.options.steps_per_execution,
        )
        restore = _OnTrainBegin(self.state.restore)
        restore_callbacks = _OnTrainBegin(self.state.restore_callbacks)
        return keras.callbacks.CallbackList(
            [first, restore, *others, restore_callbacks],
            model=self.model,
            verbose=verbose,
            epochs=self.pipeline.epochs,
            steps=self.steps_per_epoch,
        )

    def _epoch(
        self,
        iterator: Any,
        validation_data: tf.data.Dataset | None,
        callback_list: keras.callbacks.CallbackList,
        told_to_stop: Callable[[], bool],
    ) -> dict[str, float]:
        """Train to the end of an epoch, evaluate it, and write a checkpoint."""
        state, epoch = self.state, self.state.position.epoch
        phase_before = self.model.saved_phase
        callback_list.on_epoch_begin(epoch)
        if state.average is not None and phase_before != self.model.saved_phase:
            state.average.start()
        while state.position.step < self.steps_per_epoch and not self.model.stop_training:
            self._execute(iterator, callback_list, told_to_stop)
        if not state.position.step:  # stopped before its first step
            return {}
        if told_to_stop() and self.strategy.cluster_resolver is None:
            self._stop()  # several workers stop together, at their next step
        logs = state.sums.means()
        phase, first = self.pipeline.phase_at(epoch)
        average = state.average if PHASES[phase].trains_weights else None
        if average is not None:
            average.swap()
        if validation_data is not None:
            logs |= self._evaluate(validation_data, callback_list)
        try:
            callback_list.on_epoch_end(epoch, logs)
        except FloatingPointError:  # the last step made weights that are not finite
            position = RunPosition(epoch, state.position.step - self._last_steps)
            self.store_bad_batches(position, self._last_steps)
            raise
        last = epoch + 1 == first + self.pipeline.plan[phase] or self.model.stop_training
        if average is not None and not last:  # after the phase, the model keeps the average
            average.swap()
        state.position, state.sums = RunPosition(epoch + 1, 0), MetricSums()
        state.save()
        return logs

    def _execute(
        self,
        iterator: Any,
        callback_list: keras.callbacks.CallbackList,
        told_to_stop: Callable[[], bool],
    ) -> None:
        """Execute the graph once, for one or several steps; then stop if told to."""
        state = self.state
        epoch, done = state.position.epoch, state.position.step
        count = min(self.options.steps_per_execution, self.steps_per_epoch - done)
        callback_list.on_train_batch_begin(done)
        rates = self.pipeline.rates(count)
        execute = self._graph(count, rates is not None)
        rate_tensor = tf.constant(rates or [0.0] * count, tf.float32)
        result = execute(iterator, rate_tensor, tf.constant(float(told_to_stop())))
        sums = MetricSums(*map(float, np.asarray(result)))
        if rates is not None:
            self.model.compiled_rate.note(rates[-1])
        state.sums = state.sums.plus(sums)
        if not np.isfinite(sums.loss):
            self.store_bad_batches(RunPosition(epoch, done), count)
        self._last_steps = count
        state.position = RunPosition(epoch, done + count)
        callback_list.on_train_batch_end(done + count - 1, state.sums.means())
        if sums.stop > 0:
            self._stop()
        state.save_if_due()

    def _stop(self) -> None:
        """Write a checkpoint and raise PreemptionError."""
        self.state.save()
        position = self.state.position
        where = f"Stopped after epoch {position.epoch + 1}, step {position.step}"
        if self.state.checkpoints is None:
            raise PreemptionError(f"{where}.")
        raise PreemptionError(f"{where}; the same command resumes from the checkpoint there.")

    def _graph(self, count: int, sets_rate: bool) -> Callable[..., tf.Tensor]:
        """Return the graph of `count` steps, traced again for a phase or another selection."""
        selection = selection_settings(self.model.net)
        key = (self.model.phase, self.model.phase_steps, sets_rate, selection)
        if self._graphs_key != key:
            self._graphs, self._graphs_key = {}, key
        if count not in self._graphs:
            average = self.state.average if self.model.phase.trains_weights else None
            self._graphs[count] = train_function(
                self.model, self.strategy, count, self.options.step, average, sets_rate
            )
        return self._graphs[count]

    def _evaluate(
        self, validation_data: tf.data.Dataset, callback_list: keras.callbacks.CallbackList
    ) -> dict[str, float]:
        """Return the metrics of the validation data."""
        total = MetricSums()
        callback_list.on_test_begin()
        for i, batch in enumerate(distribute_batches(validation_data, self.strategy, pad=True)):
            callback_list.on_test_batch_begin(i)
            total = total.plus(self.evaluate(batch))
            callback_list.on_test_batch_end(i, total.means())
        callback_list.on_test_end(total.means())
        share = total.without_gradient / max(1.0, total.correct)
        self.model.gradient_watch.warn_once(self.model.validation_measure, share)
        known = {"val_zero_gradient_share": share} if self.model.gradient_watch.known else {}
        return {**total.means("val_"), **known}
