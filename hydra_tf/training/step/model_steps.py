"""What a robust model does with one batch: train on it, or judge it."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.checks.labels import is_one_hot, sparse_labels
from hydra_tf.objectives.base import Replayed
from hydra_tf.training.step.batch_checks import checked, correct
from hydra_tf.training.step.microbatches import StepOptions
from hydra_tf.training.step.phases import Phase, trained_variables
from hydra_tf.training.step.replayed_perturbation import put, take
from hydra_tf.training.step.robust_step import robust_step, step_context


class BatchSteps(keras.Model):
    """The steps of :class:`hydra_tf.RobustModel`, which sets what they read."""

    net: Any
    objective: Any
    seed: int
    train_batchnorm: bool
    phase: Phase
    phase_steps: int | None
    validation_attack: Any
    robust_accuracy: Any
    carried: Any
    metrics_take_rows: bool  # whether the compiled metrics have met one-hot labels first

    @property
    def replays(self) -> int:
        """Optimizer steps on each batch."""
        return self.objective.replays if isinstance(self.objective, Replayed) else 1

    def train_step(self, data: Any) -> dict[str, Any]:
        """One robust step on a batch, or several of a replayed objective; Keras calls this."""
        x, y = checked(data, self.net.output_shape[-1])
        terms = self.robust_batch(x, y)
        self._loss_tracker.update_state(terms.loss, sample_weight=tf.shape(x)[0])
        if terms.adversarial_logits is not None:
            self.robust_accuracy.update_state(correct(y, terms.logits, terms.adversarial_logits))
        results: dict[str, Any] = self.compute_metrics(x, data[1], terms.logits)
        if terms.adversarial_logits is None:
            results.pop("robust_accuracy")
        return results

    def robust_batch(self, x: tf.Tensor, y: tf.Tensor, options: StepOptions | None = None) -> Any:
        """Train on one batch as the phase says, as often as the objective replays it.

        Args:
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] int32 labels.
            options: how a step is worked.

        Returns:
            The objective's :class:`hydra_tf.core.types.LossTerms` before the last step.
        """
        variables = trained_variables(self.net, self.phase, self.train_batchnorm)
        objective: Any = self.objective
        carries = isinstance(objective, Replayed)
        if carries and self.carried is None:
            raise ValueError(
                "This objective carries a perturbation that fit makes room for: call fit."
            )
        perturbed = objective.start_batch(x, take(self.carried, x)) if carries else None
        # Unrolled: tf.distribute updates no variable within a loop of the graph.
        for _ in range(self.replays):
            step = self.optimizer.iterations
            terms = robust_step(
                self.net,
                objective,
                self.optimizer,
                variables,
                x,
                y,
                step_context(self.seed, self.phase.index, step, self.phase_steps),
                refresh=self.phase.trains_scores,
                perturbed=perturbed,
                options=options,
            )
            perturbed = terms.perturbed
        if carries:
            put(self.carried, perturbed - x)
        return terms

    def test_step(self, data: Any) -> dict[str, Any]:
        """Benign loss and metrics, and accuracy under `validation_attack`; Keras calls this."""
        x, y = checked(data, self.net.output_shape[-1])
        logits = self(x, training=False)
        self._loss_tracker.update_state(
            tf.reduce_mean(cross_entropy(y, logits)), sample_weight=tf.shape(x)[0]
        )
        if self.validation_attack is not None:
            self.robust_accuracy.update_state(self.watched(x, y, logits))
        results: dict[str, Any] = self.compute_metrics(x, data[1], logits)
        if self.validation_attack is None:
            results.pop("robust_accuracy")
        return results

    def watched(self, x: tf.Tensor, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return what `validation_attack` finds of a batch.

        Args:
            x: [batch, ...] images.
            y: [batch] int32 labels.
            logits: [batch, classes] of the images.

        Returns:
            Ones for samples that are verified, or right with and without the attack, zeros for
            the others: [batch], or of the first samples where the objective looks at no more.
        """
        watch: Any = self.validation_attack
        if hasattr(watch, "held"):
            return tf.cast(watch.held(self.net, x, y), tf.float32)
        # One seed for all batches: what is compared between epochs is the network.
        x_adv = watch(self, x, y, seed=self.seed)
        return correct(y, logits, self(x_adv, training=False))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics with labels in the form of the first that they met.

        "accuracy" becomes that of integers or of one-hot rows at the first update; training
        and validation data may differ.
        """
        metrics = self._compile_metrics
        if metrics is not None and not metrics.built:
            self.metrics_take_rows = is_one_hot(y)
        elif metrics is not None and is_one_hot(y) != self.metrics_take_rows:
            sparse = sparse_labels(y)
            y = tf.one_hot(sparse, y_pred.shape[-1]) if self.metrics_take_rows else sparse
        return super().compute_metrics(x, y, y_pred, sample_weight)
