"""The HYDRA pipeline as a Keras callback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from absl import logging

from hydra_tf.sparsity.allocation import allocation_of
from hydra_tf.sparsity.granularity import GranularitySpec, granularity_name
from hydra_tf.sparsity.learned import Learned, require_prune_phase
from hydra_tf.sparsity.methods import METHODS, default_allocation, plan_of
from hydra_tf.sparsity.model import (
    refuse_self_pruned,
    report,
    set_density,
    set_selection,
    warn_of_unmasked,
)
from hydra_tf.sparsity.topk import kept_count
from hydra_tf.training.callbacks.best_epoch import BestEpoch, reset_best, restores_best
from hydra_tf.training.callbacks.density_ramp import DensityRamp
from hydra_tf.training.callbacks.learning_rate import (
    Schedule,
    peak_rates,
    require_one_schedule,
    schedule_of,
    warmup_share,
)
from hydra_tf.training.callbacks.plan_checks import require_lengths
from hydra_tf.training.callbacks.score_watch import ScoreWatch
from hydra_tf.training.callbacks.starting_scores import require_first_batch, set_starting_scores
from hydra_tf.training.step.optimizer import optimizer_settings
from hydra_tf.training.step.phases import NO_PHASE, PHASES, Phase, phase_variants


class HydraCallback(keras.callbacks.Callback):
    """Pretrain, prune and fine-tune within one `fit` (arXiv 2002.10509, section 3).

    Every phase is a separate training, with a fresh optimizer, learning-rate schedule and
    best epoch. `EarlyStopping` and `ModelCheckpoint` start again with each phase, so that the
    dense network is never mistaken for the best pruned one. `EarlyStopping` ends the whole
    `fit`, as in Keras: if it stops pretraining, the network is not pruned.

    Args:
        density: share of the weights to keep, in (0, 1].
        pretrain_epochs: epochs in which all weights are trained.
        prune_epochs: epochs in which the scores are trained; methods that have no prune phase
            skip it.
        finetune_epochs: epochs in which the kept weights are trained.
        method: pruning method: ``"hydra"``, ``"lwm"`` (least weight magnitude), ``"random"`` or
            ``"snip"``, each with any score initialisation, as in
            ``"hydra:score_init=magnitude"``; ``"hydra:joint=true"`` trains the weights in the
            prune phase too.
        allocation: density per layer; see :func:`hydra_tf.set_density`. By default ``"global"``
            for methods that train scores and ``"erk"`` for others (see
            :func:`hydra_tf.sparsity.methods.default_allocation`); ``"uniform"`` is the paper's.
        granularity: unit that is kept or pruned as one; see :func:`hydra_tf.set_density`.
        density_schedule: density during a phase: ``"one_shot"``, ``"linear"``,
            ``"cubic:end=0.5"`` or ``"polynomial:power=2"`` (see
            :mod:`hydra_tf.sparsity.density_schedules`), or a `PruningSchedule` of TFMOT, whose
            steps are those of the phase; it must end at `density`. Only epochs that end with
            this density may be the best one. By default `density` holds from the first step on.
        density_schedule_phase: ``"prune"``, or ``"pretrain"`` for gradual pruning: the density
            falls while weights are trained. Methods that train scores initialise them when
            pretraining begins and train them together with the weights; other methods compute
            them from the weights again whenever the density changes (Zhu and Gupta, 2017).
        score_perturbation: norm of the perturbation at which the prune phase trains the scores, as
            a share of the norm of the scores of each layer (S2AP, arXiv 2510.18381); it doubles the
            cost of a step. 0 for no perturbation.
        learning_rate: peak rate of the phases, a number or a mapping from phase name to
            number; by default the compiled optimizer's, a tenth of it in fine-tuning.
        schedule: ``"cosine"``, ``"constant"``, a callable (step, steps, peak, warmup) -> rate
            as in :mod:`hydra_tf.core.schedules`, or a Keras LearningRateSchedule, which starts
            again at step 0 in each phase and has rates and warm-up of its own; None, or an
            optimizer compiled with a schedule, leaves the learning rate unchanged.
        warmup: share of each phase, in [0, 1), over which the rate rises linearly from 0; 0.05
            by default.
        monitor: metric by which the best epoch of a phase is chosen; by default
            ``val_robust_accuracy``, else ``val_accuracy``, if there are validation data.
        restore_best_weights: whether a phase ends with the weights of its best epoch.
        best_dir: folder that stores the best weights too, so that a run resumed by
            `keras.callbacks.BackupAndRestore` has them; by default they are in memory only.
        restore_best: deprecated name of `restore_best_weights`.

    Raises:
        ValueError: density outside (0, 1], negative epochs or none at all, unknown names, a
            learning rate without a schedule that has a peak, another argument that would be
            ignored.
        TypeError: a density that is not a number, epochs that are not integers.

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
        method: Any = "hydra",
        *,
        allocation: Any = None,
        granularity: GranularitySpec = "element",
        density_schedule: Any = None,
        density_schedule_phase: str = "prune",
        score_perturbation: float = 0.0,
        learning_rate: float | Mapping[str, float] | None = None,
        schedule: str | Schedule | None = "cosine",
        warmup: float | None = None,
        monitor: str | None = None,
        restore_best_weights: bool = True,
        best_dir: str | None = None,
        restore_best: bool | None = None,
    ) -> None:
        super().__init__()
        kept_count(density, 1)
        self._method = METHODS.build(method)
        if allocation is None:
            allocation = default_allocation(method, granularity)
        allocation_of(allocation)
        self.density_schedule = density_schedule
        self.ramp = DensityRamp(density_schedule, density, density_schedule_phase)
        gradual = self.ramp.is_gradual
        self.plan = plan_of(method, pretrain_epochs, prune_epochs, finetune_epochs, gradual)
        self.ramp.require_phase(self.plan)
        require_prune_phase(allocation, density_schedule, self.plan, method, score_perturbation)
        self._phases = phase_variants(self.plan, self._method, gradual, score_perturbation)
        self.score_perturbation = score_perturbation
        self._compiled_schedule = schedule_of(schedule)
        self._rates = peak_rates(learning_rate, schedule)
        self.warmup = warmup_share(warmup, schedule)
        self._chosen = {"schedule": None if schedule == "cosine" else schedule, "warmup": warmup}
        restore_best_weights = restores_best(restore_best_weights, restore_best, monitor, best_dir)
        self.density, self.method = density, method
        self.allocation, self.granularity = allocation, granularity_name(granularity)
        self.learning_rate, self.schedule = learning_rate, schedule
        self.monitor, self.restore_best_weights = monitor, restore_best_weights
        self.best = BestEpoch(best_dir, monitor)
        self._scores = ScoreWatch()
        self._schedule: Schedule | None = None
        self.attach([])

    def attach(
        self,
        peers: Sequence[keras.callbacks.Callback],
        resumes: bool = False,
        sets_rate: bool = True,
        steps_per_execution: int | None = None,
    ) -> None:
        """Set how the next training runs.

        Args:
            peers: the other callbacks.
            resumes: whether the training continues from an earlier one.
            sets_rate: whether this callback sets the learning rate; otherwise the graph of a
                step does, with :meth:`rates`.
            steps_per_execution: steps of one call of a graph; as compiled when left out.
        """
        self._peers, self._resumes, self._sets_rate = list(peers), resumes, sets_rate
        self._steps_per_execution = steps_per_execution

    @property
    def epochs(self) -> int:
        """Number of epochs of all phases, for `fit`."""
        return sum(self.plan.values())

    def phase_at(self, epoch: int) -> tuple[str, int]:
        """Return the name of the phase of an epoch, and the first epoch of this phase."""
        first = 0
        for name, length in self.plan.items():
            if epoch < first + length:
                return name, first
            first += length
        raise ValueError(f"Epoch {epoch} is beyond the {self.epochs} epochs of the phases.")

    def on_train_begin(self, logs: Any = None) -> None:
        """Check the arguments of `fit` and the schedules, and prepare the first phase."""
        if not hasattr(self.model, "saved_phase"):
            raise TypeError("HydraCallback needs a hydra_tf.RobustModel; wrap the network in one.")
        refuse_self_pruned(self.model.net, "HydraCallback")
        require_lengths(self.params, self.plan, self.method)
        optimizer = self.model.optimizer
        self._schedule = self._compiled_schedule
        if isinstance(optimizer_settings(optimizer)["learning_rate"], dict):
            self._schedule = None  # the optimizer was compiled with a schedule of its own
        require_one_schedule(self._schedule, self._rates, self._peers, self._chosen)
        self._peak_rate = self.model.compiled_rate.remember(optimizer)
        self.best.warned = False
        self.best.start()
        if not self.ramp.is_constant:
            executed = self._steps_per_execution or self.model.steps_per_execution
            self.ramp.prepare(self._steps(self.ramp.phase), executed * self.model.replays)
        self.ramp.check_budgets(self.model, self.allocation, self.granularity)
        require_first_batch(self.model, self._method)
        part = allocation_of(self.allocation)
        self.model.train_densities(part if isinstance(part, Learned) else None, self.density)
        warn_of_unmasked(self.model.net, self.density)
        first = PHASES[next(iter(self.plan))].index
        # If an earlier fit ended before the first phase of this plan, the pipeline continues it.
        if not self._resumes and self.model.saved_phase >= first:
            self.model.save_phase(NO_PHASE)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Enter the phase of this epoch, or resume it after a restart."""
        name, _ = self.phase_at(epoch)
        if self.ramp.is_falling_in(self.model.phase.name):
            reset_best(self._peers)  # the last epoch had a denser network
        if self.model.saved_phase != PHASES[name].index:
            self._enter(name)
            self.model.set_phase(self._phases[name], self._steps(name))
            if name == "prune" and self._phases[name].trains_scores:
                self._scores.begin(self.model)
        else:
            self.resume_phase(epoch)

    def resume_phase(self, epoch: int) -> None:
        """Set the model to the phase of an epoch that it has entered already."""
        name, _ = self.phase_at(epoch)
        phase, steps = self._phases[name], self._steps(name)
        if self.model.phase != phase or self.model.phase_steps != steps:
            set_selection(self.model, self.allocation, self.granularity)
            self.model.set_phase(phase, steps)
            self.best.resume(name)
        if self.ramp.is_in(name):
            epoch_steps = self.params["steps"] * self.model.replays
            self.ramp.resume(self._steps_done, epoch_steps)

    @property
    def _steps_done(self) -> int:
        """Number of optimizer steps done in the phase."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _steps(self, name: str) -> int:
        """Return the number of optimizer steps of a phase."""
        return int(self.plan[name] * self.params["steps"] * self.model.replays)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set density and learning rate of the next step, or of all steps on the next batch."""
        if self.ramp.is_in(self.model.phase.name):
            trained = self.model.phase.trains_scores
            method = None if trained else self._method
            step, how = self._steps_done, (self.allocation, self.granularity)
            self.ramp.apply(self.model, step, *how, method)
        rates = self.rates(1) if self._sets_rate else None
        if rates is not None:
            self.model.compiled_rate.set(rates[0])

    @property
    def has_schedule(self) -> bool:
        """Whether the learning rate follows the pipeline's schedule, once training has begun."""
        return self._schedule is not None

    def rates(self, count: int) -> list[float] | None:
        """Return the learning rates of the next batches, or None if they are left unchanged.

        Args:
            count: number of batches.
        """
        if self._schedule is None:
            return None
        # Counted in batches, so that the last step has the last rate for any number of replays.
        done = self._steps_done // self.model.replays
        batches = self.model.phase_steps // self.model.replays
        peak = self._peak(self.model.phase)
        return [self._schedule(done + i, batches, peak, self.warmup) for i in range(count)]

    def on_test_begin(self, logs: Any = None) -> None:
        """Meet the budget before the epoch is evaluated, if densities are learned."""
        if self._trains_densities:
            self.model.density_training.meet_budget()

    @property
    def _trains_densities(self) -> bool:
        """Whether the current phase trains the densities of the layers."""
        return self.model.phase.trains_scores and self.model.density_training is not None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the epoch with the best one, which is restored at the end of the phase."""
        logs = logs if logs is not None else {}
        self._scores.end(self.model, logs)
        if self._trains_densities:
            logs |= self.model.density_training.end_epoch()
        logs["density"] = report(self.model)["total"]["density"]
        if not self.restore_best_weights:
            return
        name, first = self.phase_at(epoch)
        value = self.best.measured(logs)
        if value is not None and not self.ramp.is_falling_in(name):
            self.best.offer(self.model, name, value)
        if epoch + 1 == first + self.plan[name]:
            self.best.restore(self.model)

    def on_train_end(self, logs: Any = None) -> None:
        """Restore the best epoch if training stopped early; warn if a phase was not reached."""
        self.model.compiled_rate.restore()
        if not any(getattr(peer, "restore_best_weights", False) for peer in self._peers):
            self.best.restore(self.model)
        last = list(self.plan)[-1]
        if self.model.phase.name != last:
            logging.warning(
                "hydra_tf: training stopped in phase %s; the model has not reached phase %s.",
                self.model.phase.name,
                last,
            )

    def _enter(self, name: str) -> None:
        """Begin a phase: set scores and masks, reset the optimizer and the best epoch."""
        gradual = self.ramp.is_gradual
        density = self.ramp.start() if self.ramp.is_in(name) else self.density
        how = (self.allocation, self.granularity)
        if name == "pretrain" and not gradual:
            density = 1.0
            set_density(self.model, density)
        elif name == "pretrain" or (
            self.model.saved_phase <= PHASES["pretrain"].index and not gradual
        ):
            # A method that trains its scores fine-tunes with the scores of the network.
            if not (self._method.trains_scores and name == "finetune"):
                set_starting_scores(self.model, self._method)
            set_density(self.model, density, *how)
        elif name == next(iter(self.plan)):
            set_density(self.model, density, *how)
        if name == "prune" and self.model.density_training is not None:
            self.model.density_training.start()
        self.model.reset_optimizer()
        self.model.save_phase(PHASES[name].index)
        self.best.start()
        reset_best(self._peers)
        logging.info("hydra_tf: phase %s, density %g", name, density)

    def _peak(self, phase: Phase) -> float:
        """Return the peak learning rate of a phase."""
        rate = self._rates.get(phase.name)
        return phase.rate * self._peak_rate if rate is None else rate
