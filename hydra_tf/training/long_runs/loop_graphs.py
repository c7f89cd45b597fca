"""The graphs of the training loop: training steps and evaluation on distributed batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.checks.labels import sparse_labels
from hydra_tf.core.pixels import unit_floats
from hydra_tf.core.randomness import slice_of_batch
from hydra_tf.training.long_runs.moving_average import MovingAverage
from hydra_tf.training.robust_model import RobustModel
from hydra_tf.training.step.batch_checks import checked, correct
from hydra_tf.training.step.microbatches import StepOptions, position_in_global_batch

_PADDING = -1  # label of the images that make the slices of a batch equal in size


class MetricSums(NamedTuple):
    """Sums over the samples of an epoch so far, from which its metrics are computed.

    Args:
        samples: number of samples.
        loss: sum of losses.
        correct: number of correctly classified samples.
        robust: number of robustly correct samples.
        robust_count: number of samples examined for robustness.
        stop: above 0 if the worker of a replica got SIGTERM.
        without_gradient: number of correctly classified samples for which the attack of an
            evaluation found no gradient.

    Example:
        >>> MetricSums(4.0, 2.0, 3.0).means()
        {'loss': 0.5, 'accuracy': 0.75}
    """

    samples: float = 0.0
    loss: float = 0.0
    correct: float = 0.0
    robust: float = 0.0
    robust_count: float = 0.0
    stop: float = 0.0
    without_gradient: float = 0.0

    def plus(self, sums: Any) -> MetricSums:
        """Return these sums plus others, [7] numbers, added in float64."""
        return MetricSums(*map(float, np.asarray(self) + np.asarray(sums, np.float64)))

    def means(self, prefix: str = "") -> dict[str, float]:
        """Return the metrics by name, with a prefix before each name."""
        means = {"loss": self.loss / self.samples, "accuracy": self.correct / self.samples}
        if self.robust_count:
            means["robust_accuracy"] = self.robust / self.robust_count
        return {f"{prefix}{name}": value for name, value in means.items()}


def distribute_batches(
    batches: tf.data.Dataset, strategy: tf.distribute.Strategy, pad: bool = False
) -> Any:
    """Return batches whose samples are distributed among the replicas of a strategy, in order.

    Replica r of R gets the samples from n r / R to n (r + 1) / R of a batch of n, so that every
    sample is processed once, even if the batch cannot be divided evenly. A batch must have at
    least one sample for each replica. Every worker reads whole batches and keeps its slices.

    Args:
        batches: (images, labels), the same on every worker.
        strategy: a tf.distribute strategy.
        pad: whether to pad batches, so that every replica gets the same number of samples.

    Returns:
        `batches` itself for one replica, else a distributed dataset.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return batches

    def for_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def split(x: tf.Tensor, y: tf.Tensor) -> tf.data.Dataset:
            if pad:
                missing = -tf.shape(y)[0] % replicas
                x = tf.concat([x, tf.repeat(x[:1], missing, axis=0)], 0)
                y = tf.concat([sparse_labels(y), tf.fill([missing], _PADDING)], 0)
            ends = [tf.shape(y)[0] * r // replicas for r in range(first, first + local + 1)]
            slices = [
                tf.data.Dataset.from_tensors((x[start:end], y[start:end]))
                for start, end in itertools.pairwise(ends)
            ]
            concatenated = slices[0]
            for dataset in slices[1:]:
                concatenated = concatenated.concatenate(dataset)
            return concatenated

        return batches.flat_map(split).prefetch(2 * local)

    return strategy.distribute_datasets_from_function(for_worker)


def train_function(
    model: RobustModel,
    strategy: tf.distribute.Strategy,
    steps: int,
    options: StepOptions,
    average: MovingAverage | None = None,
    sets_rate: bool = True,
) -> Callable[..., tf.Tensor]:
    """Return a graph of training steps in the current phase of the model.

    Args:
        model: a compiled :class:`hydra_tf.RobustModel`.
        strategy: the tf.distribute strategy in whose scope the model was created.
        steps: number of steps.
        options: how a step is computed.
        average: moving average of the weights, if there is one.
        sets_rate: whether the learning rate is set before each step.

    Returns:
        A function of (iterator of batches, [steps] rates, stop) that returns the
        :class:`MetricSums` of all steps and replicas as one tensor, [7].
    """
    classes = model.net.output_shape[-1]

    def step(batch: Any, stop: tf.Tensor) -> tf.Tensor:
        x, y = checked((unit_floats(batch[0]), *batch[1:]), classes)
        terms = model.train_on_checked_batch(x, y, options)
        if average is not None:
            average.update()
        robust = None
        if terms.adversarial_logits is not None:
            robust = correct(y, terms.logits, terms.adversarial_logits)
        count = tf.cast(tf.shape(x)[0], tf.float32)
        return _sums(terms.loss * count, correct(y, terms.logits), robust, count, stop)

    @tf.function(autograph=False, reduce_retracing=True)
    def execute(iterator: Any, rates: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        total = tf.zeros([len(MetricSums._fields)])
        for i in range(steps):
            batch = next(iterator)
            if sets_rate:
                model.optimizer.learning_rate = rates[i]
            per_replica = strategy.run(step, args=(batch, stop))
            total += strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        return total

    return execute


def evaluate_function(
    model: RobustModel, strategy: tf.distribute.Strategy
) -> Callable[[Any], tf.Tensor]:
    """Return a graph that evaluates a batch: benign and robust accuracy.

    Args:
        model: a :class:`hydra_tf.RobustModel`.
        strategy: the tf.distribute strategy in whose scope the model was created.

    Returns:
        A function of a batch of :func:`distribute_batches` that returns its
        :class:`MetricSums` as one tensor, [7].
    """
    classes = model.net.output_shape[-1]

    def evaluate(batch: Any) -> tf.Tensor:
        real = tf.cast(sparse_labels(batch[1]) != _PADDING, tf.float32)
        labels = tf.where(real > 0, sparse_labels(batch[1]), 0)
        x, y = checked((unit_floats(batch[0]), labels), classes)
        logits = model(x, training=False)
        loss = cross_entropy(y, logits)
        robust = without_gradient = None
        if model.validation_measure is not None:
            with slice_of_batch(*position_in_global_batch(tf.shape(x)[0])):
                robust, without_gradient = model.robustness(x, y, logits)
            robust *= real[: tf.shape(robust)[0]]
        if without_gradient is not None:
            without_gradient = tf.reduce_sum(without_gradient * real)
        return _sums(
            tf.reduce_sum(loss * real),
            correct(y, logits) * real,
            robust,
            tf.reduce_sum(real),
            tf.constant(0.0),
            tf.reduce_sum(real[: 0 if robust is None else tf.shape(robust)[0]]),
            without_gradient,
        )

    @tf.function(autograph=False, reduce_retracing=True)
    def execute(batch: Any) -> tf.Tensor:
        per_replica = strategy.run(evaluate, args=(batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

    return execute


def _sums(
    loss: tf.Tensor,
    right: tf.Tensor,
    robust: tf.Tensor | None,
    count: tf.Tensor,
    stop: tf.Tensor,
    robust_count: tf.Tensor | None = None,
    without_gradient: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the :class:`MetricSums` of a slice as a tensor, [7]."""
    robust_sum = tf.constant(0.0) if robust is None else tf.reduce_sum(robust)
    if robust_count is None:
        robust_count = tf.constant(0.0) if robust is None else count
    if without_gradient is None:
        without_gradient = tf.constant(0.0)
    return tf.stack(
        MetricSums(
            count, loss, tf.reduce_sum(right), robust_sum, robust_count, stop, without_gradient
        )
    )
