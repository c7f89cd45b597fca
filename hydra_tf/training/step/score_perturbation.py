"""Sharpness-aware training of scores (Piras et al., S2AP, arXiv 2510.18381).

A small change of the scores can change the mask, and with it the loss, a lot. S2AP therefore
minimises the loss at the worst scores near by: it takes the gradient at ``s + z``, where z
increases the loss and has, in each layer, a norm of a share of that of the scores. As in SAM (Foret
et al., ICLR 2021), one gradient ascent step finds z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hydra_tf.core.types import LossTerms
from hydra_tf.sparsity.model import masked_layers, refresh_masks
from hydra_tf.training.step.microbatches import Gradients


def gradients_at_perturbed_scores(
    model: keras.Model,
    variables: Sequence[keras.Variable],
    share: float,
    batch_gradients: Callable[[], tuple[LossTerms, Gradients]],
) -> tuple[LossTerms, Gradients]:
    """Return the gradients of a batch at the perturbed scores, and with the masks chosen from them.

    The second pass changes no variable: scores, masks, moving averages and random states are those
    after the first one.

    Args:
        model: a model with masked layers.
        variables: the variables of the first gradients.
        share: norm of the perturbation of a layer, as a share of the norm of its scores; 0 for no
            perturbation and no second pass.
        batch_gradients: returns the loss terms of this replica's samples, and their share of the
            gradients of the batch; gradients beyond those of `variables` are of images.

    Returns:
        The loss terms and the gradients of images at the unperturbed scores, and all other
        gradients at the perturbed ones.

    Example:
        >>> import hydra_tf
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        >>> model = hydra_tf.mask_model(net)
        >>> def gradients():
        ...     return LossTerms(tf.constant(0.0), tf.zeros([1, 1])), [tf.ones([2, 1])]
        >>> gradients_at_perturbed_scores(model, [model.layers[0].scores], 0.1, gradients)[1]
        [<tf.Tensor: ...]
    """
    if not share:
        return batch_gradients()
    # Both passes start from the same values, so that they draw the same random numbers.
    before = [(variable, tf.convert_to_tensor(variable)) for variable in model.variables]
    terms, gradients = batch_gradients()
    scores = {id(layer.scores) for layer in masked_layers(model)}
    pairs = [(v, g) for v, g in zip(variables, gradients, strict=False) if id(v) in scores]
    perturbed = _perturbed([(v, g) for v, g in pairs if g is not None], share)
    with _Discarded([*before, *perturbed], collect_losses=True):
        refresh_masks(model)
        _, at_perturbed = batch_gradients()
    return terms, [*at_perturbed[: len(variables)], *gradients[len(variables) :]]


class _Discarded(keras.StatelessScope):
    """A scope whose updates are discarded, at once if they are made in a loop or compiled function.

    Their tensors exist only there, so that nothing outside could read them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        eager = tf.executing_eagerly()
        self._graph = None if eager else tf.compat.v1.get_default_graph()

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        """Record a new value of a variable; Keras calls this."""
        if getattr(update[1], "graph", None) is self._graph:
            super().add_update(update)


def _perturbed(
    pairs: Sequence[tuple[keras.Variable, tf.Tensor]], share: float
) -> list[tuple[keras.Variable, tf.Tensor]]:
    """Return scores with their perturbed values, from this replica's share of their gradients."""
    scores, gradients = [v for v, _ in pairs], [g for _, g in pairs]
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    perturbed = []
    for variable, gradient in zip(scores, gradients, strict=True):
        values = tf.convert_to_tensor(variable)
        # The direction does not change if the loss was scaled for half precision.
        direction = tf.math.divide_no_nan(gradient, tf.norm(gradient))
        perturbed.append((variable, values + share * tf.norm(values) * direction))
    return perturbed
