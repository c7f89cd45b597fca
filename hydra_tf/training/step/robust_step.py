"""One robust training step, a pure function of model, batch and seed.

`RobustModel.fit` and any other training loop call these functions and nothing else, so
that a run depends on (seed, phase, step) and on the data alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hydra_tf.core.types import LossTerms, StepContext
from hydra_tf.layers.masked import kernels_computed_once
from hydra_tf.sparsity.model import masked_layers, refresh_masks
from hydra_tf.training.step.microbatches import StepOptions, accumulated_gradients, clipped


def step_context(seed: int, phase: int, step: Any, total_steps: int | None) -> StepContext:
    """Return the seed and progress of a step.

    Args:
        seed: seed of the run.
        phase: index of the phase.
        step: number of optimizer steps done in the phase, a whole number or scalar tensor.
        total_steps: steps of the phase; progress is 1 when unknown.

    Example:
        >>> float(step_context(0, 1, 5, 10).progress)
        0.5
    """
    folded = tf.constant([seed % (1 << 31), phase], tf.int32)
    folded = tf.random.fold_in(folded, tf.cast(step, tf.int32))
    folded = tf.random.fold_in(folded, 0)  # a number to spare; published tables were made with it
    if not total_steps:
        return StepContext(folded, tf.constant(1.0))
    return StepContext(folded, tf.minimum(1.0, tf.cast(step, tf.float32) / total_steps))


def robust_gradients(
    model: Any,
    objective: Callable[..., LossTerms],
    variables: list[Any],
    x: tf.Tensor,
    y: tf.Tensor,
    context: StepContext,
    scale: Callable[[tf.Tensor], tf.Tensor] = lambda loss: loss,
    perturbed: tf.Tensor | None = None,
) -> tuple[LossTerms, list[Any]]:
    """Return the objective's terms on a batch and the gradients for `variables`.

    Args:
        model: Keras model ``(x, training) -> logits`` with masked layers or without.
        objective: a registered objective or a callable of its form.
        variables: Keras variables to differentiate for.
        x: [batch, ...] float32 images in [0, 1].
        y: [batch] int32 labels.
        context: seed and progress of the step.
        scale: applied to the loss before differentiating (loss scaling, replicas).
        perturbed: images of a replayed objective; their gradient is put behind the others.
    """
    sources = [variable.value for variable in variables]
    with tf.GradientTape() as tape, kernels_computed_once(masked_layers(model)):
        if perturbed is None:
            terms = objective(model, x, y, context)
        else:
            tape.watch(perturbed)
            sources.append(perturbed)
            terms = objective(model, x, y, context, perturbed)
        loss = scale(tf.add_n([terms.loss, *(tf.cast(r, tf.float32) for r in model.losses)]))
    return terms, tape.gradient(loss, sources)


def robust_step(
    model: Any,
    objective: Any,
    optimizer: Any,
    variables: list[Any],
    x: tf.Tensor,
    y: tf.Tensor,
    context: StepContext,
    refresh: bool,
    perturbed: tf.Tensor | None = None,
    options: StepOptions | None = None,
) -> LossTerms:
    """Train `variables` on one batch, then refresh the masks if scores were trained.

    Variables that are not in the list are kept out of the optimizer altogether: momentum
    and weight decay would move them even with a gradient of zero. Where replicas share a
    batch, each adds the part of the mean that its own samples make, however many they are,
    and a sample meets the noise that it would meet on one device.

    Args:
        model: Keras model with masked layers or without.
        objective: a registered objective or a callable of its form.
        optimizer: a built Keras optimizer.
        variables: what to train; see :func:`hydra_tf.training.step.phases.trained_variables`.
        x: [batch, ...] float32 images in [0, 1].
        y: [batch] int32 labels.
        context: seed and progress of the step.
        refresh: whether to choose the masks anew from the scores.
        perturbed: images of a :class:`hydra_tf.objectives.base.Replayed` objective, which the
            same gradient moves.
        options: how the step is worked, at once when left out.

    Returns:
        The objective's terms before the step on this replica's samples, with the perturbed
        images after it.
    """

    def part_gradients(x: Any, y: Any, perturbed: Any, context: StepContext, share: Any) -> Any:
        def scale(loss: tf.Tensor) -> tf.Tensor:
            return optimizer.scale_loss(loss * share)

        return robust_gradients(
            model, objective, variables, x, y, context, scale=scale, perturbed=perturbed
        )

    options = options or StepOptions()
    terms, gradients = accumulated_gradients(part_gradients, x, y, perturbed, context, options)
    if perturbed is not None:
        *gradients, slope = gradients
        terms = replace(terms, perturbed=objective.update_perturbed(x, perturbed, slope))
    if options.clip_norm is not None:
        gradients = clipped(gradients, options.clip_norm, optimizer.scale_loss(1.0))
    optimizer.apply(gradients, variables)
    if refresh:
        refresh_masks(model)
    return terms
