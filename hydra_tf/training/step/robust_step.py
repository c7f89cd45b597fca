"""One robust training step, a pure function of model, batch and seed.

`RobustModel.fit` and every other training loop call these functions and nothing else, so that a
run depends only on its data and on (seed, phase, step).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.types import Images, Labels, LossTerms, StepContext
from hydra_tf.layers.mask_state import are_kernels_frozen, kernels_computed_once, kernels_frozen
from hydra_tf.sparsity.model import masked_layers, refresh_masks
from hydra_tf.training.step.density_training import DensityTraining
from hydra_tf.training.step.microbatches import StepOptions, accumulated_gradients, clipped
from hydra_tf.training.step.score_perturbation import gradients_at_perturbed_scores


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
    folded = tf.random.fold_in(folded, 0)  # kept so that published seeds stay valid
    if not total_steps:
        return StepContext(folded, tf.constant(1.0))
    return StepContext(folded, tf.minimum(1.0, tf.cast(step, tf.float32) / total_steps))


def robust_gradients(
    model: keras.Model,
    objective: Callable[..., LossTerms],
    variables: list[keras.Variable],
    x: Images,
    y: Labels,
    context: StepContext,
    scale: Callable[[tf.Tensor], tf.Tensor] = lambda loss: loss,
    perturbed: Images | None = None,
) -> tuple[LossTerms, list[tf.Tensor | None]]:
    """Return the loss terms of a batch, and the gradients of the loss with respect to `variables`.

    Args:
        model: Keras model ``(x, training) -> logits``, with or without masked layers.
        objective: a registered objective, or a callable with the same arguments.
        variables: Keras variables.
        x: [batch, ...] float32 images in [0, 1].
        y: [batch] int32 labels.
        context: seed and progress of the step.
        scale: applied to the loss before differentiation (loss scaling, replicas).
        perturbed: images of a replayed objective; their gradient comes last.
    """
    sources = [variable.value for variable in variables]
    images = [] if perturbed is None else [perturbed]
    with tf.GradientTape() as tape:
        # Variables are watched already, unless their values are those of a stateless scope.
        tape.watch([*(s for s in sources if not isinstance(s, tf.Variable)), *images])
        with kernels_computed_once(masked_layers(model)):
            terms = objective(model, x, y, context, *images)
            added = [tf.cast(penalty, tf.float32) for penalty in penalties(model)]
            loss = scale(tf.add_n([terms.loss, *added]))
    return terms, tape.gradient(loss, [*sources, *images])


def penalties(model: keras.Model) -> list[tf.Tensor]:
    """Return the losses of a model's layers, in which pruned weights do not count.

    In the prune phase kernels are frozen, and their penalties are those of all weights, so that
    they do not move the scores.

    Args:
        model: Keras model with or without masked layers.

    Example:
        >>> dense = keras.layers.Dense(1, kernel_regularizer="l2")
        >>> net = keras.Sequential([keras.Input([1]), dense])
        >>> len(penalties(net))
        1
    """
    losses: list[tf.Tensor] = list(model.losses)
    masked = {id(layer.kernel): layer for layer in masked_layers(model)}
    penalised = [v for v in model.trainable_weights if v.regularizer is not None]
    if are_kernels_frozen() or not any(id(v) in masked for v in penalised):
        return losses
    # Keras lists the penalties of weights last.
    losses = losses[: len(losses) - len(penalised)]
    # In the kernel's own dtype, as Keras computes penalties.
    values = [masked[id(v)].pruned_kernel() if id(v) in masked else v for v in penalised]
    return losses + [v.regularizer(x) for v, x in zip(penalised, values, strict=True)]


def robust_step(
    model: keras.Model,
    objective: Any,
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    x: Images,
    y: Labels,
    context: StepContext,
    refresh: bool,
    perturbed: Images | None = None,
    options: StepOptions | None = None,
    densities: DensityTraining | None = None,
    score_perturbation: float = 0.0,
) -> LossTerms:
    """Train `variables` on one batch, then refresh the masks if scores were trained.

    Variables that are not in the list are not passed to the optimizer: momentum and weight
    decay would change them even with a gradient of zero. If replicas share a batch, each adds its
    samples' share of the mean, even if their numbers differ, and every sample gets the same random
    numbers as on one device.

    Args:
        model: Keras model with or without masked layers.
        objective: a registered objective, or a callable with the same arguments.
        optimizer: a built Keras optimizer.
        variables: variables to train; see :func:`hydra_tf.training.trained_variables`.
        x: [batch, ...] float32 images in [0, 1].
        y: [batch] int32 labels.
        context: seed and progress of the step.
        refresh: whether to choose the masks again from the scores.
        perturbed: images of a :class:`hydra_tf.objectives.base.Replayed` objective, which the
            same backward pass updates.
        options: microbatches, clipping and compilation; the defaults when left out.
        densities: trains the density of each layer too, if scores are trained.
        score_perturbation: see :func:`.score_perturbation.gradients_at_perturbed_scores`.

    Returns:
        The loss terms before the step on this replica's samples, and the perturbed images
        after it.

    Example:
        >>> import hydra_tf
        >>> from hydra_tf.training import PHASES, trained_variables
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> masked, optimizer = hydra_tf.mask_model(net), keras.optimizers.SGD(0.1)
        >>> variables = trained_variables(masked, PHASES["finetune"])
        >>> optimizer.build(variables)
        >>> x, y = tf.constant([[0.0, 1.0]]), tf.constant([1])
        >>> objective = hydra_tf.objectives.build("natural")
        >>> def step(number):
        ...     context = step_context(0, phase=2, step=number, total_steps=2)
        ...     return robust_step(masked, objective, optimizer, variables, x, y, context, False)
        >>> losses = [float(step(number).loss) for number in range(2)]
        >>> losses[1] < losses[0]
        True
    """

    def slice_gradients(x: Any, y: Any, perturbed: Any, context: StepContext, share: Any) -> Any:
        def scale(loss: tf.Tensor) -> tf.Tensor:
            return optimizer.scale_loss(loss * share)

        return robust_gradients(
            model, objective, variables, x, y, context, scale=scale, perturbed=perturbed
        )

    how = options or StepOptions()

    def batch_gradients() -> tuple[LossTerms, list[tf.Tensor | None]]:
        return accumulated_gradients(slice_gradients, x, y, perturbed, context, how)

    # SpectralNormalization divides its kernel at every call; where it has no mask, this undoes it.
    kernels = {id(layer.kernel) for layer in masked_layers(model)}
    frozen = refresh and kernels.isdisjoint(map(id, variables))
    normalized = _normalized_variables(model) if frozen else []
    before = [tf.identity(variable.value) for variable in normalized]
    with kernels_frozen(frozen):
        terms, gradients = gradients_at_perturbed_scores(
            model, variables, score_perturbation, batch_gradients
        )
    if perturbed is not None:
        *gradients, image_gradient = gradients
        terms = replace(terms, perturbed=objective.update_perturbed(x, perturbed, image_gradient))
    if how.global_clipnorm is not None:
        gradients = clipped(gradients, how.global_clipnorm, optimizer.scale_loss(1.0))
    if densities is not None:
        densities.update(optimizer, variables, gradients)
    optimizer.apply(gradients, variables)
    for variable, value in zip(normalized, before, strict=True):
        variable.assign(value)
    if refresh:
        refresh_masks(model, None if densities is None else densities.kept())
    return terms


def _normalized_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables that layers of SpectralNormalization change when they are called."""
    kind = keras.layers.SpectralNormalization
    layers = [layer for layer in all_layers(model) if isinstance(layer, kind)]
    return [variable for layer in layers for variable in (layer.kernel, layer.vector_u)]
