"""The training and evaluation steps of a robust model, on one batch."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.checks.labels import is_one_hot, sparse_labels
from hydra_tf.core.types import Images, Labels, Logits, LossTerms
from hydra_tf.objectives.base import Replayed
from hydra_tf.objectives.validation import Robustness, UnderAttack, ValidationMeasure
from hydra_tf.sparsity.model import selection_settings
from hydra_tf.training.step.batch_checks import checked, correct
from hydra_tf.training.step.density_training import DensityTraining
from hydra_tf.training.step.gradient_watch import GradientWatch
from hydra_tf.training.step.microbatches import StepOptions
from hydra_tf.training.step.phases import Phase, trained_variables
from hydra_tf.training.step.replayed_perturbation import (
    perturbation_shape,
    read_perturbation,
    store_perturbation,
)
from hydra_tf.training.step.robust_step import robust_step, step_context


class BatchSteps(keras.Model):
    """The steps of :class:`hydra_tf.RobustModel`, which sets the attributes they read."""

    net: keras.Model
    objective: Any
    seed: int
    train_batchnorm: bool
    validation_measure: ValidationMeasure | None
    gradient_watch: GradientWatch
    density_training: DensityTraining | None
    _phase: Phase
    _phase_steps: int | None
    _robust_accuracy: keras.metrics.Mean
    _perturbation: keras.Variable | None
    _metrics_take_one_hot: bool  # whether the first labels of the compiled metrics were one-hot
    train_function: Any

    @property
    def replays(self) -> int:
        """Number of optimizer steps on each batch."""
        return self.objective.replays if isinstance(self.objective, Replayed) else 1

    def make_train_function(self, force: bool = False) -> None:
        """Make the function that takes the steps; Keras calls this.

        Its graph reads how many weights masks keep, but chooses them by the settings as they are
        when it is traced, so it is traced again if one of them was set since.
        """
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=True)
        function, traced = self.train_function, selection_settings(self.net)

        def run(iterator: Any) -> Any:
            if traced != selection_settings(self.net):
                self.make_train_function(force=True)
                return self.train_function(iterator)
            return function(iterator)

        self.train_function = run

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on one batch; Keras calls this."""
        x, y = checked(data, self.net.output_shape[-1])
        terms = self.train_on_checked_batch(x, y)
        self._metric("loss").update_state(terms.loss, sample_weight=tf.shape(x)[0])
        if terms.adversarial_logits is not None:
            self._robust_accuracy.update_state(correct(y, terms.logits, terms.adversarial_logits))
        results: dict[str, Any] = self.compute_metrics(x, data[1], terms.logits)
        if terms.adversarial_logits is None:
            results.pop("robust_accuracy")
        return results

    def train_on_checked_batch(
        self, x: Images, y: Labels, options: StepOptions | None = None
    ) -> LossTerms:
        """Train on one batch in the current phase, as often as the objective replays it.

        Args:
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] int32 labels.
            options: how a step is computed.

        Returns:
            The loss terms before the last step.
        """
        variables = trained_variables(self.net, self._phase, self.train_batchnorm)
        objective: Any = self.objective
        replayed = isinstance(objective, Replayed)
        if replayed and self._perturbation is None:
            raise ValueError(
                "This objective carries a perturbation from batch to batch, for which fit "
                "allocates memory; call fit."
            )
        perturbed = None
        if replayed:
            perturbed = objective.start_batch(x, read_perturbation(self._perturbation, x))
        # Unrolled, because tf.distribute cannot update variables within a loop of the graph.
        for _ in range(self.replays):
            step = self.optimizer.iterations
            terms = robust_step(
                self.net,
                objective,
                self.optimizer,
                variables,
                x,
                y,
                step_context(self.seed, self._phase.index, step, self._phase_steps),
                refresh=self._phase.trains_scores,
                perturbed=perturbed,
                options=options,
                densities=self.density_training if self._phase.trains_scores else None,
                score_perturbation=self._phase.score_perturbation,
            )
            perturbed = terms.perturbed
        if replayed:
            store_perturbation(self._perturbation, perturbed - x)
        return terms

    def prepare_perturbation(self, batch: tuple[Any, Any] | None) -> None:
        """Add the stored perturbation, of the shape of a batch, if the objective replays one.

        Args:
            batch: images and labels of the first training batch, None if unknown.

        Raises:
            ValueError: for a replayed objective without a first batch.
        """
        if not isinstance(self.objective, Replayed) or self._perturbation is not None:
            return
        if batch is None:
            raise ValueError(
                "This objective carries a perturbation of the shape of a batch, but the data "
                "are a generator, whose shape is unknown; pass arrays or a tf.data.Dataset."
            )
        replicas = self.distribute_strategy.num_replicas_in_sync
        self.add_perturbation(perturbation_shape(batch[0], replicas))

    def add_perturbation(self, shape: tuple[int, ...]) -> None:
        """Add the weight that stores the perturbation of a replayed objective."""
        with self.distribute_strategy.scope():
            self._perturbation = self.add_weight(
                name="carried",
                shape=shape,
                initializer="zeros",
                trainable=False,
                autocast=False,
                dtype="float32",
                aggregation="sum",
            )

    def test_step(self, data: Any) -> dict[str, Any]:
        """Return benign loss and metrics, and robust accuracy; Keras calls this."""
        x, y = checked(data, self.net.output_shape[-1])
        logits = self(x, training=False)
        loss = tf.reduce_mean(cross_entropy(y, logits))
        self._metric("loss").update_state(loss, sample_weight=tf.shape(x)[0])
        if self.validation_measure is not None:
            robustness = self.robustness(x, y, logits)
            self._robust_accuracy.update_state(robustness.correct)
            self.gradient_watch.update(robustness.without_gradient, correct(y, logits))
        results: dict[str, Any] = self.compute_metrics(x, data[1], logits)
        if self.validation_measure is None:
            results.pop("robust_accuracy")
        return results

    def robustness(self, x: Images, y: Labels, logits: Logits) -> Robustness:
        """Apply the validation measure to a batch.

        Args:
            x: [batch, ...] images.
            y: [batch] int32 labels.
            logits: [batch, classes] of the images.

        Returns:
            Which samples are robustly correct; see
            :class:`hydra_tf.objectives.validation.ValidationMeasure`.
        """
        measure = self.validation_measure
        assert measure is not None
        # The same seed in every epoch, so that epochs differ only in the network.
        if isinstance(measure, UnderAttack):
            robustness = measure.robustness(self, x, y, logits, self.seed)
            self.gradient_watch.known = robustness.without_gradient is not None
            return robustness
        return Robustness(measure.correct(self, x, y, logits, self.seed), None)

    def _metric(self, name: str) -> Any:
        """Return the metric of this name, such as the tracker of the loss."""
        return next(metric for metric in self.metrics if metric.name == name)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics with labels in the form of their first update.

        Keras chooses the accuracy of integer or of one-hot labels at the first update of
        "accuracy", but training and validation data may differ.
        """
        compiled = [metric for metric in self.metrics if metric.name == "compile_metrics"]
        if compiled and not compiled[0].built:
            self._metrics_take_one_hot = is_one_hot(y)
        elif compiled and is_one_hot(y) != self._metrics_take_one_hot:
            sparse = sparse_labels(y)
            y = tf.one_hot(sparse, y_pred.shape[-1]) if self._metrics_take_one_hot else sparse
        return super().compute_metrics(x, y, y_pred, sample_weight)
