"""Gradients of a batch that replicas share, or that is processed in microbatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from hydra_tf.core.randomness import slice_of_batch
from hydra_tf.core.types import Images, Labels, LossTerms, StepContext

Gradients = list[tf.Tensor | None]

# (x, y, perturbed, context, share of the batch) -> terms and gradients
SliceGradients = Callable[..., tuple[LossTerms, Gradients]]


@dataclass(frozen=True)
class StepOptions:
    """How a training step is computed.

    Args:
        microbatches: number of microbatches that a batch is processed in, one after the other.
            Their gradients are added up, so that a large batch needs less memory. BatchNorm
            computes its statistics on each microbatch separately.
        global_clipnorm: maximum Euclidean norm of all gradients together (Pascanu et al., 2013);
            None for no clipping.
        jit_compile: whether XLA compiles loss and gradients; XLA draws other random numbers from
            the same seed.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> StepOptions(microbatches=4).jit_compile
        False
    """

    microbatches: int = 1
    global_clipnorm: float | None = None
    jit_compile: bool = False

    def __post_init__(self) -> None:
        if self.microbatches < 1:
            raise ValueError(f"microbatches must be at least 1, not {self.microbatches}.")
        if self.global_clipnorm is not None and not 0 < self.global_clipnorm < float("inf"):
            raise ValueError(
                f"global_clipnorm must be a positive number, not {self.global_clipnorm}."
            )


def position_in_global_batch(count: tf.Tensor) -> tuple[Any, tf.Tensor]:
    """Return the position of this replica's first sample in the global batch, and its size.

    Args:
        count: number of samples of this replica, a scalar tensor.

    Returns:
        Two int32 scalars; the first is the Python number 0 if there is one replica.

    Example:
        >>> first, total = position_in_global_batch(tf.constant(8))
        >>> first, int(total)
        (0, 8)
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0, count
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    # As floats, which every collective can add.
    counts = tf.one_hot(replica, replicas) * tf.cast(count, tf.float32)
    counts = tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, counts), tf.int32)
    before = tf.range(replicas) < replica
    return tf.reduce_sum(tf.where(before, counts, 0)), tf.reduce_sum(counts)


def accumulated_gradients(
    slice_gradients: SliceGradients,
    x: Images,
    y: Labels,
    perturbed: Images | None,
    context: StepContext,
    options: StepOptions,
) -> tuple[LossTerms, Gradients]:
    """Return a replica's loss terms and its share of the gradients of the global batch.

    Args:
        slice_gradients: maps (x, y, perturbed, context, share) to the loss terms of some samples
            and the gradients of `share` times their loss; the gradient for `perturbed` is last.
        x: [batch, ...] images of this replica.
        y: [batch] labels.
        perturbed: [batch, ...] or None.
        context: seed and progress of the step.
        options: microbatches and compilation.

    Raises:
        ValueError: for XLA on several replicas.
    """
    count = tf.shape(x)[0]
    first, total = position_in_global_batch(count)
    if options.jit_compile:
        if total is not count:
            raise ValueError(
                "jit_compile works on one replica only; leave out jit_compile or the strategy."
            )
        slice_gradients = _compiled(slice_gradients)
    if options.microbatches == 1 and total is count:
        return slice_gradients(x, y, perturbed, context, 1.0)
    results: list[tuple[LossTerms, Gradients]] = []
    weights: list[tf.Tensor] = []
    for i in range(options.microbatches):
        start, end = (count * k // options.microbatches for k in (i, i + 1))
        # A microbatch of a short batch may be empty: it gets a sample of weight 0.
        begin = tf.minimum(start, count - 1)
        # One after the other: in parallel they would need the memory of the whole batch.
        with tf.control_dependencies([g for g in results[-1][1] if g is not None] if i else []):
            stop = tf.maximum(end, begin + 1)
            rows = [None if t is None else tf.identity(t[begin:stop]) for t in (x, y, perturbed)]
        size = tf.cast(end - start, tf.float32)
        with slice_of_batch(first + begin, total):
            share = size / tf.cast(total, tf.float32)
            terms, gradients = slice_gradients(*rows, context, share)
        results.append((_first_rows(terms, end - start), gradients))
        if perturbed is not None and gradients[-1] is not None:
            gradients[-1] = gradients[-1][: end - start]
        weights.append(size / tf.cast(count, tf.float32))
    return _combined(results, weights, has_perturbed=perturbed is not None)


def _first_rows(terms: LossTerms, count: tf.Tensor) -> LossTerms:
    """Return the same terms with the logits of the first `count` samples only."""
    adversarial = terms.adversarial_logits
    return replace(
        terms,
        logits=terms.logits[:count],
        adversarial_logits=None if adversarial is None else adversarial[:count],
    )


def _combined(
    results: Sequence[tuple[LossTerms, Gradients]],
    weights: Sequence[tf.Tensor],
    has_perturbed: bool,
) -> tuple[LossTerms, Gradients]:
    """Return the terms of all microbatches as those of one batch, and the sum of gradients."""
    if len(results) == 1:
        return results[0]
    terms = [term for term, _ in results]

    def mean(values: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([w * v for w, v in zip(weights, values, strict=True)])

    def concatenated(values: Sequence[Any]) -> Any:
        return None if values[0] is None else tf.concat(values, 0)

    combined = LossTerms(
        loss=mean([term.loss for term in terms]),
        logits=concatenated([term.logits for term in terms]),
        adversarial_logits=concatenated([term.adversarial_logits for term in terms]),
        components={
            key: mean([term.components[key] for term in terms]) for key in terms[0].components
        },
    )
    columns = list(zip(*(gradients for _, gradients in results), strict=True))
    image_gradients = [concatenated(columns.pop())] if has_perturbed else []
    sums = [None if column[0] is None else tf.add_n(column) for column in columns]
    return combined, sums + image_gradients


def clipped(gradients: Gradients, global_clipnorm: float, unit: Any) -> Gradients:
    """Return gradients whose sum over all replicas has at most a given norm.

    Args:
        gradients: this replica's share of each gradient, or None.
        global_clipnorm: maximum Euclidean norm of all gradients together.
        unit: a gradient of 1 after loss scaling.

    Example:
        >>> [gradient] = clipped([tf.constant([3.0, 4.0])], 1.0, 1.0)
        >>> gradient.numpy().round(3).tolist()
        [0.6, 0.8]
    """
    context = tf.distribute.get_replica_context()
    replicas = 1 if context is None else context.num_replicas_in_sync
    present = [g for g in gradients if g is not None]
    if replicas > 1:  # the sum over replicas is clipped, then divided: the optimizer sums again
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, present)
        present = [g / replicas for g in sums]
    scaled = iter(tf.clip_by_global_norm(present, global_clipnorm * unit / replicas)[0])
    return [None if g is None else next(scaled) for g in gradients]


def _compiled(slice_gradients: SliceGradients) -> SliceGradients:
    """Return the same function, compiled by XLA."""

    @tf.function(jit_compile=True, autograph=False)
    def run(x: Any, y: Any, perturbed: Any, seed: Any, progress: Any, share: Any) -> Any:
        terms, gradients = slice_gradients(x, y, perturbed, StepContext(seed, progress), share)
        names = ("loss", "logits", "adversarial_logits", "components")
        return {name: getattr(terms, name) for name in names}, gradients

    def compiled(x: Any, y: Any, perturbed: Any, context: StepContext, share: Any) -> Any:
        terms, gradients = run(x, y, perturbed, context.seed, context.progress, share)
        return LossTerms(**terms), gradients

    return compiled
