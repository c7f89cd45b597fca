"""The scores with which pruning begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from hydra_tf.sparsity.methods import PruningMethod
from hydra_tf.sparsity.model import masked_layers, set_density
from hydra_tf.sparsity.score_init import initial_scores
from hydra_tf.training.step.batch_checks import checked
from hydra_tf.training.step.phases import PHASES
from hydra_tf.training.step.robust_step import robust_gradients, step_context


def set_starting_scores(model: Any, method: PruningMethod) -> None:
    """Initialise the scores of every layer by the score initialisation of a method.

    Args:
        model: a :class:`hydra_tf.RobustModel`.
        method: the pruning method.
    """
    layers = masked_layers(model)
    gradients = [None] * len(layers)
    if method.needs_gradient:
        gradients = _kernel_gradients(model)
    for i, (layer, gradient) in enumerate(zip(layers, gradients, strict=True)):
        scores = initial_scores(
            layer.kernel,
            method.score_init,
            fan_in=layer.fan_in,
            gradient=gradient,
            seed=model.seed + i,
        )
        layer.scores.assign(scores)


def require_first_batch(model: Any, method: PruningMethod) -> None:
    """Check that there is a batch for a score initialisation that needs a gradient.

    Args:
        model: a :class:`hydra_tf.RobustModel`.
        method: the pruning method.

    Raises:
        ValueError: if the training data are a generator.
    """
    if method.needs_gradient and model.first_batch is None:
        raise ValueError(
            f'The score initialisation "{method.score_init}" needs a batch to start from, but the '
            "data are a generator; pass arrays or a tf.data.Dataset."
        )


def _kernel_gradients(model: Any) -> list[Any]:
    """Return the gradients of the robust loss for the dense kernels on the first batch."""
    set_density(model, 1.0)
    state = model.net.non_trainable_variables
    before = [np.asarray(variable) for variable in state]
    x, y = checked(model.first_batch, model.net.output_shape[-1])
    kernels = [layer.kernel for layer in masked_layers(model)]
    context = step_context(model.seed, PHASES["prune"].index, 0, None)
    gradients = robust_gradients(model.net, model.objective, kernels, x, y, context)[1]
    for variable, value in zip(state, before, strict=True):
        variable.assign(value)  # this batch must not change moving statistics
    strategy = model.distribute_strategy
    if strategy.cluster_resolver is not None:  # workers may sum in different orders
        mean, per_worker = tf.distribute.ReduceOp.MEAN, strategy.run(lambda: gradients)
        gradients = [strategy.reduce(mean, gradient, axis=None) for gradient in per_worker]
    return gradients
