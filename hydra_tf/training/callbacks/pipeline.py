"""The HYDRA pipeline as a Keras callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from hydra_tf.core.registry import unknown
from hydra_tf.sparsity.allocation import ALLOCATIONS
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.methods import METHODS, plan_of
from hydra_tf.sparsity.model import layer_densities, masked_layers, report, set_density
from hydra_tf.sparsity.score_init import initial_scores
from hydra_tf.sparsity.topk import kept_count
from hydra_tf.training.callbacks.best_epoch import BestEpoch
from hydra_tf.training.callbacks.learning_rate import peak_rates, require_say, schedule_of
from hydra_tf.training.step.batch_checks import checked
from hydra_tf.training.step.optimizer import settings_of
from hydra_tf.training.step.phases import NO_PHASE, PHASES, Phase
from hydra_tf.training.step.robust_step import robust_gradients, step_context


class HydraCallback(keras.callbacks.Callback):
    """Pretrain, prune and fine-tune within one `fit` (arXiv 2002.10509, section 3).

    Every phase is a training of its own: a fresh optimizer, its own learning-rate schedule,
    and its own best epoch. `EarlyStopping` and `ModelCheckpoint` start anew with each
    phase, so that the dense network is never taken for the best pruned one. `EarlyStopping`
    ends the whole `fit`, as in Keras: in pretraining it leaves the network unpruned.

    Args:
        density: share of the weights to keep, in (0, 1].
        pretrain_epochs: epochs in which all weights are trained.
        prune_epochs: epochs in which the scores are trained; methods that do not learn the
            scores have no such phase and leave it out.
        finetune_epochs: epochs in which the surviving weights are trained.
        method: ``"hydra"``, ``"lwm"`` (least weight magnitude), ``"random"`` or ``"snip"``.
        allocation: density per layer; see :func:`hydra_tf.set_density`.
        granularity: what is kept as one; see :func:`hydra_tf.set_density`.
        learning_rate: peak rate of the phases, a number or a mapping from phase name to
            number; by default the compiled optimizer's, a tenth of it in fine-tuning.
        schedule: ``"cosine"``, ``"constant"``, or a callable (step, steps, peak, warmup) -> rate
            as in :mod:`hydra_tf.core.schedules`; None, or an optimizer compiled with a schedule of
            its own, leaves the learning rate alone, to Keras's callbacks for example.
        warmup: share of each phase, in [0, 1), over which the rate rises linearly from 0.
        monitor: metric by which the best epoch of a phase is chosen; by default
            ``val_robust_accuracy``, else ``val_accuracy``, where there are validation data.
        restore_best: whether a phase ends with the weights of its best epoch.
        best_dir: folder to keep the best weights in, so that a run resumed by
            `keras.callbacks.BackupAndRestore` knows those of before; else in memory alone.

    Raises:
        ValueError: density outside (0, 1], negative epochs or none at all, unknown names, a
            learning rate without a schedule.
        TypeError: a density that is no number, epochs that are no whole numbers.

    Example:
        >>> HydraCallback(0.1, pretrain_epochs=3, prune_epochs=2, finetune_epochs=2).epochs
        7
    """

    def __init__(
        self,
        density: float,
        pretrain_epochs: int = 0,
        prune_epochs: int = 0,
        finetune_epochs: int = 0,
        method: str = "hydra",
        *,
        allocation: Any = "uniform",
        granularity: str = "element",
        learning_rate: float | Mapping[str, float] | None = None,
        schedule: str | Callable[..., float] | None = "cosine",
        warmup: float = 0.05,
        monitor: str | None = None,
        restore_best: bool = True,
        best_dir: str | None = None,
    ) -> None:
        super().__init__()
        kept_count(density, 1)
        if method not in METHODS:
            raise ValueError(unknown("method", method, METHODS))
        if not isinstance(allocation, Mapping):
            ALLOCATIONS.build(allocation)
        GRANULARITIES.build(granularity)
        lengths = (pretrain_epochs, prune_epochs, finetune_epochs)
        self.plan = plan_of(method, *lengths)
        self._schedule_at = schedule_of(schedule)
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is a share of the phase in [0, 1), not {warmup}.")
        self._rates = peak_rates(learning_rate, schedule)
        self.density, self.method = density, method
        self.allocation, self.granularity = allocation, granularity
        self.learning_rate, self.schedule, self.warmup = learning_rate, schedule, warmup
        self.monitor, self.restore_best = monitor, restore_best
        self.peers: Sequence[Any] = ()
        self.starts_over, self.moves_rate = True, True
        self.best = BestEpoch(best_dir)

    @property
    def epochs(self) -> int:
        """Epochs of all phases: what to give to `fit`."""
        return sum(self.plan.values())

    def phase_at(self, epoch: int) -> tuple[str, int]:
        """Return the name of the phase of an epoch and the phase's first epoch."""
        first = 0
        for name, length in self.plan.items():
            if epoch < first + length:
                return name, first
            first += length
        raise ValueError(f"Epoch {epoch} lies beyond the {self.epochs} epochs of the phases.")

    def on_train_begin(self, logs: Any = None) -> None:
        """Check the run and build the optimizer that a restored state must fit into."""
        if not hasattr(self.model, "phase_entered"):
            raise TypeError("HydraCallback needs a hydra_tf.RobustModel; wrap the network in one.")
        if self.params["epochs"] != self.epochs:
            phases = " + ".join(f"{length} {name}" for name, length in self.plan.items())
            raise ValueError(
                f"fit(epochs={self.params['epochs']}) does not match the {self.epochs} epochs of "
                f"method {self.method!r} ({phases}); pass epochs={self.epochs}."
            )
        if not self.params["steps"]:
            raise ValueError(
                "The length of the dataset is unknown, and the schedules need it; pass "
                "steps_per_epoch, or use dataset.apply(tf.data.experimental.assert_cardinality(n))."
            )
        optimizer = self.model.optimizer
        self._rate_at = self._schedule_at
        if isinstance(settings_of(optimizer)["learning_rate"], dict):
            self._rate_at = None  # the optimizer was compiled with a schedule of its own
        require_say(self._rate_at, self._rates, self.peers)
        self._peak_rate = self.model.compiled_rate.note(optimizer)
        self._missed = False
        self.best.start()
        self._check_pruning()
        first = PHASES[next(iter(self.plan))].index
        if self.starts_over and _number(self.model.phase_entered) >= first:
            # Not where an earlier fit ended before this plan begins: that one goes on.
            self.model.phase_entered.assign(NO_PHASE)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Enter the phase of this epoch, or take it up again after a restart."""
        name, _ = self.phase_at(epoch)
        steps = self.plan[name] * self.params["steps"] * self.model.replays
        if int(_number(self.model.phase_entered)) != PHASES[name].index:
            self._enter(name)
            self.model.set_phase(name, steps)
        elif self.model.phase.name != name or self.model.phase_steps != steps:
            for layer in masked_layers(self.model):
                layer.granularity = self.granularity
            self.model.set_phase(name, steps)
            self.best.resume(name)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the learning rate of the next step, or of all steps on the next batch."""
        rates = self.rates(1) if self.moves_rate else None
        if rates is not None:
            self.model.compiled_rate.move(rates[0])

    @property
    def sets_rates(self) -> bool:
        """Whether the learning rate follows the pipeline's schedule, once training has begun."""
        return self._rate_at is not None

    def rates(self, count: int) -> list[float] | None:
        """Return the learning rates of the next batches, or None where they are left alone.

        Args:
            count: number of batches.
        """
        if self._rate_at is None:
            return None
        # In batches, so that the last step has the last rate however often it is replayed.
        done = int(_number(self.model.optimizer.iterations)) // self.model.replays
        batches = self.model.phase_steps // self.model.replays
        peak = self._peak(self.model.phase)
        return [self._rate_at(done + i, batches, peak, self.warmup) for i in range(count)]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note the best epoch of the phase; at its end, go back to it."""
        logs = logs if logs is not None else {}
        logs["density"] = report(self.model)["total"]["density"]
        monitor = self.monitor or next(
            (key for key in ("val_robust_accuracy", "val_accuracy") if key in logs), None
        )
        if not self.restore_best:
            return
        name, first = self.phase_at(epoch)
        if monitor is not None and monitor not in logs:
            self._miss(monitor, logs)
        elif monitor is not None:
            value = -logs[monitor] if monitor.endswith("loss") else logs[monitor]
            self.best.offer(self.model, name, float(value))
        if epoch + 1 == first + self.plan[name]:
            self.best.restore(self.model)

    def _miss(self, monitor: str, logs: Mapping[str, Any]) -> None:
        """Refuse a metric that is not there; without validation it may come, and one is warned."""
        if any(key.startswith("val_") for key in logs):
            raise ValueError(unknown("monitor", monitor, logs))
        if not self._missed:
            logging.warning(
                'hydra_tf: there is no metric "%s" without validation data; a phase ends with the '
                "weights of its last epoch.",
                monitor,
            )
        self._missed = True

    def on_train_end(self, logs: Any = None) -> None:
        """Go back to the best epoch where training stopped early; warn before the last phase."""
        self.model.compiled_rate.give_back()
        if not any(getattr(peer, "restore_best_weights", False) for peer in self.peers):
            self.best.restore(self.model)
        last = list(self.plan)[-1]
        if self.model.phase.name != last:
            logging.warning(
                "hydra_tf: training stopped in phase %s; the model has not reached phase %s.",
                self.model.phase.name,
                last,
            )

    def _enter(self, name: str) -> None:
        """Begin a phase: scores and masks if pruning starts here, optimizer, best epoch."""
        pruned = name != "pretrain"
        if not pruned:
            set_density(self.model, 1.0)
        elif _number(self.model.phase_entered) <= PHASES["pretrain"].index:
            # A method that learns its scores fine-tunes with the ones the network brings.
            if not (METHODS[self.method].learns and name == "finetune"):
                self._start_scores()
            set_density(self.model, self.density, self.allocation, self.granularity)
        elif name == next(iter(self.plan)):
            set_density(self.model, self.density, self.allocation, self.granularity)
        self.model.renew_optimizer()
        self.model.phase_entered.assign(PHASES[name].index)
        self.best.start()
        for peer in self.peers:
            if isinstance(peer, keras.callbacks.EarlyStopping):
                peer.on_train_begin()
            elif isinstance(peer, keras.callbacks.ModelCheckpoint):
                peer.best = None
        logging.info("hydra_tf: phase %s, density %g", name, self.density if pruned else 1.0)

    def _check_pruning(self) -> None:
        """Refuse now what would fail when pruning begins."""
        if isinstance(self.allocation, Mapping):
            layer_densities(self.model, self.density, self.allocation)
        if METHODS[self.method].score_init == "snip" and self.model.first_batch is None:
            raise ValueError(
                'Method "snip" needs a batch to start from, but the data are a generator; pass '
                "arrays or a tf.data.Dataset."
            )

    def _start_scores(self) -> None:
        """Set every layer's scores as the method says."""
        init = METHODS[self.method].score_init
        layers = masked_layers(self.model)
        gradients = self._kernel_gradients() if init == "snip" else [None] * len(layers)
        for i, (layer, gradient) in enumerate(zip(layers, gradients, strict=True)):
            scores = initial_scores(
                layer.kernel,
                init,
                fan_in=layer.fan_in,
                gradient=gradient,
                seed=self.model.seed + i,
            )
            layer.scores.assign(scores)

    def _kernel_gradients(self) -> list[Any]:
        """Gradients of the robust loss for the whole kernels on the first batch."""
        set_density(self.model, 1.0)
        state = self.model.net.non_trainable_variables
        before = [np.asarray(variable) for variable in state]
        x, y = checked(self.model.first_batch, self.model.net.output_shape[-1])
        kernels = [layer.kernel for layer in masked_layers(self.model)]
        context = step_context(self.model.seed, PHASES["prune"].index, 0, None)
        net, objective = self.model.net, self.model.objective
        gradients = robust_gradients(net, objective, kernels, x, y, context)[1]
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)  # looking at a batch must not move BatchNorm's averages
        strategy = self.model.distribute_strategy
        if strategy.cluster_resolver is not None:  # other machines may add up in another order
            mean, own = tf.distribute.ReduceOp.MEAN, strategy.run(lambda: gradients)
            gradients = [strategy.reduce(mean, gradient, axis=None) for gradient in own]
        return gradients

    def _peak(self, phase: Phase) -> float:
        """The largest learning rate of a phase."""
        given = self._rates.get(phase.name)
        return phase.rate * self._peak_rate if given is None else given


def _number(variable: Any) -> float:
    """The value of a scalar variable, mirrored or not."""
    return float(keras.ops.convert_to_numpy(variable))
