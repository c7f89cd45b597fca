"""A batch worked in parts: by several replicas at once, or one part after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from hydra_tf.core.randomness import slice_of_batch
from hydra_tf.core.types import LossTerms, StepContext

# (x, y, perturbed, context, share of the batch) -> terms and gradients
PartGradients = Callable[..., tuple[LossTerms, list[Any]]]


@dataclass(frozen=True)
class StepOptions:
    """How a step is worked.

    Args:
        microbatches: parts that a batch is worked in, one after the other, their gradients
            added up: a large batch on little memory. BatchNorm sees each part for itself.
        clip_norm: largest Euclidean length of the whole gradient (Pascanu et al., 2013);
            None leaves it as it is.
        jit: whether XLA compiles loss and gradients; it draws other random numbers from the
            same seed.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> StepOptions(microbatches=4).jit
        False
    """

    microbatches: int = 1
    clip_norm: float | None = None
    jit: bool = False

    def __post_init__(self) -> None:
        if self.microbatches < 1:
            raise ValueError(f"microbatches must be at least 1, not {self.microbatches}.")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise ValueError(f"clip_norm must be a positive number, not {self.clip_norm}.")


def position_in_global_batch(count: tf.Tensor) -> tuple[Any, tf.Tensor]:
    """Return where this replica's samples begin in the global batch, and its size.

    Args:
        count: number of samples of this replica, a scalar tensor.

    Returns:
        Two int32 scalars; the first is the number 0 where there is one replica.

    Example:
        >>> first, total = position_in_global_batch(tf.constant(8))
        >>> first, int(total)
        (0, 8)
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0, count
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    # In floats, which every collective can add.
    own = tf.one_hot(replica, replicas) * tf.cast(count, tf.float32)
    counts = tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, own), tf.int32)
    before = tf.range(replicas) < replica
    return tf.reduce_sum(tf.where(before, counts, 0)), tf.reduce_sum(counts)


def accumulated_gradients(
    part_gradients: PartGradients,
    x: tf.Tensor,
    y: tf.Tensor,
    perturbed: tf.Tensor | None,
    context: StepContext,
    options: StepOptions,
) -> tuple[LossTerms, list[Any]]:
    """Return a replica's terms and its part of the gradients of the global batch.

    Args:
        part_gradients: maps (x, y, perturbed, context, share) to the terms of some samples and
            the gradients of `share` times their loss; the gradient for `perturbed` is last.
        x: [batch, ...] images of this replica.
        y: [batch] labels.
        perturbed: [batch, ...] or None.
        context: seed and progress of the step.
        options: how the step is worked.

    Raises:
        ValueError: for XLA on several replicas.
    """
    count = tf.shape(x)[0]
    first, total = position_in_global_batch(count)
    if options.jit:
        if total is not count:
            raise ValueError("jit compiles the step of one replica; leave it out, or the strategy.")
        part_gradients = _compiled(part_gradients)
    if options.microbatches == 1 and total is count:
        return part_gradients(x, y, perturbed, context, 1.0)
    found: list[tuple[LossTerms, list[Any]]] = []
    weights: list[tf.Tensor] = []
    for i in range(options.microbatches):
        start, end = (count * k // options.microbatches for k in (i, i + 1))
        # A part of a short batch may be empty: it gets a sample that counts for nothing.
        begin = tf.minimum(start, count - 1)
        # One after the other: beside one another they would need the memory of the whole.
        with tf.control_dependencies([g for g in found[-1][1] if g is not None] if found else []):
            stop = tf.maximum(end, begin + 1)
            rows = [None if t is None else tf.identity(t[begin:stop]) for t in (x, y, perturbed)]
        own = tf.cast(end - start, tf.float32)
        with slice_of_batch(first + begin, total):
            terms, gradients = part_gradients(*rows, context, own / tf.cast(total, tf.float32))
        found.append((_first_rows(terms, end - start), gradients))
        if perturbed is not None:
            gradients[-1] = gradients[-1][: end - start]
        weights.append(own / tf.cast(count, tf.float32))
    return _together(found, weights, carries=perturbed is not None)


def _first_rows(terms: LossTerms, count: tf.Tensor) -> LossTerms:
    """The same of so many samples only."""
    adversarial = terms.adversarial_logits
    return replace(
        terms,
        logits=terms.logits[:count],
        adversarial_logits=None if adversarial is None else adversarial[:count],
    )


def _together(
    found: Sequence[tuple[LossTerms, list[Any]]], weights: Sequence[tf.Tensor], carries: bool
) -> tuple[LossTerms, list[Any]]:
    """The terms of all parts as those of one batch, and the sum of the gradients."""
    if len(found) == 1:
        return found[0]
    terms = [each for each, _ in found]

    def mean(values: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([w * v for w, v in zip(weights, values, strict=True)])

    def joined(values: Sequence[Any]) -> Any:
        return None if values[0] is None else tf.concat(values, 0)

    whole = LossTerms(
        loss=mean([each.loss for each in terms]),
        logits=joined([each.logits for each in terms]),
        adversarial_logits=joined([each.adversarial_logits for each in terms]),
        components={
            key: mean([each.components[key] for each in terms]) for key in terms[0].components
        },
    )
    columns = list(zip(*(gradients for _, gradients in found), strict=True))
    own = [joined(columns.pop())] if carries else []
    sums = [None if column[0] is None else tf.add_n(column) for column in columns]
    return whole, sums + own


def clipped(gradients: list[Any], clip_norm: float, unit: Any) -> list[Any]:
    """Return gradients whose sum over all replicas has at most a given length.

    Args:
        gradients: this replica's part of each, or None.
        clip_norm: largest Euclidean length of all of them together.
        unit: what a gradient of 1 has been scaled to.

    Example:
        >>> [part] = clipped([tf.constant([3.0, 4.0])], 1.0, 1.0)
        >>> part.numpy().round(3).tolist()
        [0.6, 0.8]
    """
    context = tf.distribute.get_replica_context()
    replicas = 1 if context is None else context.num_replicas_in_sync
    known = [g for g in gradients if g is not None]
    if replicas > 1:  # what is to be clipped is the sum; the optimizer adds the replicas' up again
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, known)
        known = [g / replicas for g in sums]
    short = iter(tf.clip_by_global_norm(known, clip_norm * unit / replicas)[0])
    return [None if g is None else next(short) for g in gradients]


def _compiled(part_gradients: PartGradients) -> PartGradients:
    """The same function, compiled by XLA."""

    @tf.function(jit_compile=True, autograph=False)
    def run(x: Any, y: Any, perturbed: Any, seed: Any, progress: Any, share: Any) -> Any:
        terms, gradients = part_gradients(x, y, perturbed, StepContext(seed, progress), share)
        kept = {key: getattr(terms, key) for key in ("loss", "logits", "adversarial_logits")}
        return {**kept, "parts": terms.components}, gradients

    def compiled(x: Any, y: Any, perturbed: Any, context: StepContext, share: Any) -> Any:
        kept, gradients = run(x, y, perturbed, context.seed, context.progress, share)
        return LossTerms(**kept), gradients

    return compiled
