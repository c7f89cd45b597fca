"""The graphs of a training loop: steps on shared batches, and their judgement."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.checks.labels import sparse_labels
from hydra_tf.core.pixels import unit_floats
from hydra_tf.core.randomness import slice_of_batch
from hydra_tf.training.long_runs.moving_average import MovingAverage
from hydra_tf.training.step.batch_checks import checked, correct
from hydra_tf.training.step.microbatches import StepOptions, position_in_global_batch

# What a batch adds to the sums of an epoch; the last says whether a replica was told to stop.
COLUMNS = ("count", "loss", "accuracy", "robust_accuracy", "robust_count", "stop")

_UNKNOWN = -1  # the label of an image that only fills a share up


def shared_out(batches: tf.data.Dataset, strategy: Any, fill: bool = False) -> Any:
    """Return the batches shared out among the replicas of a strategy, in order.

    Replica r of R takes the samples from n r / R to n (r + 1) / R of a batch of n: together
    they have every sample once, also of a batch that cannot be divided evenly; it must hold at
    least one for each. Every worker reads the whole batches and keeps its own part.

    Args:
        batches: (images, labels), the same on every worker.
        strategy: a tf.distribute strategy.
        fill: give every replica as many samples, in a short batch some of an unknown label.

    Returns:
        `batches` itself for one replica, else a distributed dataset.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return batches

    def own(context: Any) -> tf.data.Dataset:
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def split(x: tf.Tensor, y: tf.Tensor) -> tf.data.Dataset:
            if fill:
                missing = -tf.shape(y)[0] % replicas
                x = tf.concat([x, tf.repeat(x[:1], missing, axis=0)], 0)
                y = tf.concat([sparse_labels(y), tf.fill([missing], _UNKNOWN)], 0)
            ends = [tf.shape(y)[0] * r // replicas for r in range(first, first + local + 1)]
            parts = [
                tf.data.Dataset.from_tensors((x[start:end], y[start:end]))
                for start, end in itertools.pairwise(ends)
            ]
            whole = parts[0]
            for part in parts[1:]:
                whole = whole.concatenate(part)
            return whole

        return batches.flat_map(split).prefetch(2 * local)

    return strategy.distribute_datasets_from_function(own)


def train_function(
    model: Any,
    strategy: Any,
    steps: int,
    options: StepOptions,
    average: MovingAverage | None = None,
    moves_rate: bool = True,
) -> Callable[..., Any]:
    """Return a graph of `steps` training steps, as the model's phase has them now.

    Args:
        model: a compiled :class:`hydra_tf.RobustModel`.
        strategy: the tf.distribute strategy that it was made under.
        steps: batches to train on.
        options: how a step is worked.
        average: follows the weights, if there is one.
        moves_rate: whether the learning rate is set before each step.

    Returns:
        A function of (iterator of batches, [steps] rates, stop) that returns the sums of
        :data:`COLUMNS` over all steps and replicas.
    """
    classes = model.net.output_shape[-1]

    def step(batch: Any, stop: tf.Tensor) -> tf.Tensor:
        x, y = checked((unit_floats(batch[0]), *batch[1:]), classes)
        terms = model.robust_batch(x, y, options)
        if average is not None:
            average.update()
        right = correct(y, terms.logits)
        robust = None
        if terms.adversarial_logits is not None:
            robust = correct(y, terms.logits, terms.adversarial_logits)
        count = tf.cast(tf.shape(x)[0], tf.float32)
        return _sums(terms.loss * count, right, robust, count, stop)

    @tf.function(autograph=False, reduce_retracing=True)
    def execute(iterator: Any, rates: tf.Tensor, stop: tf.Tensor) -> Any:
        total = tf.zeros([len(COLUMNS)])
        for i in range(steps):
            batch = next(iterator)
            if moves_rate:
                model.optimizer.learning_rate = rates[i]
            found = strategy.run(step, args=(batch, stop))
            total += strategy.reduce(tf.distribute.ReduceOp.SUM, found, axis=None)
        return total

    return execute


def judge_function(model: Any, strategy: Any) -> Callable[[Any], Any]:
    """Return a graph that judges a batch: benign, and under the model's validation attack.

    Args:
        model: a :class:`hydra_tf.RobustModel`.
        strategy: the tf.distribute strategy that it was made under.

    Returns:
        A function of a batch of :func:`shared_out` that returns the sums of :data:`COLUMNS`.
    """
    classes = model.net.output_shape[-1]

    def judge(batch: Any) -> tf.Tensor:
        known = tf.cast(sparse_labels(batch[1]) != _UNKNOWN, tf.float32)
        labels = tf.where(known > 0, sparse_labels(batch[1]), 0)
        x, y = checked((unit_floats(batch[0]), labels), classes)
        logits = model(x, training=False)
        loss = cross_entropy(y, logits)
        robust = None
        if model.validation_attack is not None:
            with slice_of_batch(*position_in_global_batch(tf.shape(x)[0])):
                robust = model.watched(x, y, logits)
            robust *= known[: tf.shape(robust)[0]]
        return _sums(
            tf.reduce_sum(loss * known),
            correct(y, logits) * known,
            robust,
            tf.reduce_sum(known),
            tf.constant(0.0),
            tf.reduce_sum(known[: 0 if robust is None else tf.shape(robust)[0]]),
        )

    @tf.function(autograph=False, reduce_retracing=True)
    def execute(batch: Any) -> Any:
        found = strategy.run(judge, args=(batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, found, axis=None)

    return execute


def _sums(
    loss: tf.Tensor,
    right: tf.Tensor,
    robust: tf.Tensor | None,
    count: tf.Tensor,
    stop: tf.Tensor,
    robust_count: tf.Tensor | None = None,
) -> tf.Tensor:
    """What a share of a batch adds, in the order of :data:`COLUMNS`."""
    held_sum = tf.constant(0.0) if robust is None else tf.reduce_sum(robust)
    if robust_count is None:
        robust_count = tf.constant(0.0) if robust is None else count
    return tf.stack([count, loss, tf.reduce_sum(right), held_sum, robust_count, stop])


def means(sums: Any, prefix: str = "") -> dict[str, float]:
    """Return the metrics that sums amount to.

    Args:
        sums: [6] sums of :data:`COLUMNS`.
        prefix: goes before each name.

    Example:
        >>> means([4.0, 2.0, 3.0, 0.0, 0.0, 0.0])
        {'loss': 0.5, 'accuracy': 0.75}
    """
    count, loss, right, robust, robust_count, _ = (float(each) for each in sums)
    found = {"loss": loss / count, "accuracy": right / count}
    if robust_count:
        found["robust_accuracy"] = robust / robust_count
    return {f"{prefix}{name}": value for name, value in found.items()}
