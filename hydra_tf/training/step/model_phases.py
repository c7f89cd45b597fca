"""What the next steps of a robust model train: the phase, its length, and densities."""

from __future__ import annotations

from typing import Any

import keras

from hydra_tf.sparsity.learned import Learned
from hydra_tf.training.step.density_training import DensityTraining
from hydra_tf.training.step.model_steps import BatchSteps
from hydra_tf.training.step.phases import NO_PHASE, PHASES, Phase


class PhasedModel(BatchSteps):
    """The phases of :class:`hydra_tf.RobustModel`, which sets the network that they train."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._phase: Phase = PHASES["pretrain"]
        self._phase_steps: int | None = None
        self._counted_steps: int | None = None
        # Saved with the weights, so that an interrupted pipeline knows its phase.
        self._saved_phase = self.add_weight(
            name="phase",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(NO_PHASE),
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )
        self.density_training: DensityTraining | None = None
        self._densities: DensityTraining | None = None  # with its weights, also if it is not used

    @property
    def phase(self) -> Phase:
        """The phase that `fit` trains; see :meth:`set_phase`."""
        return self._phase

    @property
    def phase_steps(self) -> int | None:
        """Number of optimizer steps of the phase, None if unknown."""
        return self._phase_steps

    @property
    def saved_phase(self) -> int:
        """Index of the last phase that a pipeline has entered, -1 if none."""
        return int(keras.ops.convert_to_numpy(self._saved_phase))

    def set_phase(self, name: str | Phase, steps: int | None = None) -> None:
        """Set the phase of the next training steps.

        Args:
            name: ``"pretrain"``, ``"prune"`` or ``"finetune"``, or a variant of an entry of
                :data:`hydra_tf.training.PHASES`.
            steps: optimizer steps of the phase, for objectives whose epsilon grows over it;
                when left out, all epochs of a `fit` without HydraCallback are one phase.

        Raises:
            ValueError: for an unknown phase.
        """
        if isinstance(name, str) and name not in PHASES:
            raise ValueError(f'Unknown phase "{name}". Known: {", ".join(PHASES)}.')
        self._phase = PHASES[name] if isinstance(name, str) else name
        self._phase_steps = steps
        self._trace_again()

    def _trace_again(self) -> None:
        """Make the graph of a step again, because what it trains has changed."""
        self.train_function = None
        if self.compiled:
            self.make_train_function(force=True)

    def set_counted_steps(self, steps: int | None) -> None:
        """Set the length of the phase to the steps of a `fit`, unless `set_phase` was given one.

        Args:
            steps: optimizer steps of the whole `fit`, None if unknown.
        """
        if self._phase_steps == self._counted_steps and steps != self._counted_steps:
            self._counted_steps = steps
            self.set_phase(self._phase, steps)

    @property
    def counts_steps(self) -> bool:
        """Whether the length of the phase is that of a `fit`, not one given to `set_phase`."""
        return self._phase_steps == self._counted_steps

    def save_phase(self, index: int) -> None:
        """Store the index of the phase that a pipeline enters in a weight of the model."""
        self._saved_phase.assign(index)

    def train_densities(self, part: Learned | None, density: float = 1.0) -> None:
        """Set whether the prune phase trains the density of each layer.

        Args:
            part: the allocation that learns densities, or None to train none.
            density: density of the network at the end of the phase, in (0, 1].
        """
        if part is not None and self._densities is None:
            with self.distribute_strategy.scope():
                self._densities = DensityTraining(self.net, part, density, self.add_weight)
        elif part is not None and self._densities is not None:
            self._densities.set_target(part, density)
        used = None if part is None else self._densities
        if used is not self.density_training:
            self.density_training = used
            self._trace_again()
