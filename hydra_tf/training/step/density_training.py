"""Densities of the layers that are trained with the scores (Zhao & Wressnegger, ICLR 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.sparsity.allocation import ALLOCATIONS
from hydra_tf.sparsity.budget import smallest_counts
from hydra_tf.sparsity.learned import Learned
from hydra_tf.sparsity.model import (
    masked_layers,
    refresh_masks,
    scores_by_name,
    set_density,
)
from hydra_tf.sparsity.multiply_adds import weight_costs

_LARGEST = 0.99  # share of the way from the lowest density to 1 at which a layer may start
_SMALLEST = 0.01  # distance of a start from the lowest density, as a share of the network's density


class DensityTraining:
    """Trains the density of each layer by gradient descent with momentum.

    From the gradient ``g * kernel * sign(scores)`` of the scores, which the step computes anyway,
    follows the sum of the gradients ``g * kernel`` of a layer's mask: multiplied by the signs, they
    add up to it. Between two steps, masks have the trained densities. :meth:`meet_budget` chooses
    masks that keep the same shares of the budget and meet it exactly; every epoch is evaluated,
    compared and stored with these.

    Args:
        net: a network with masked layers.
        part: the allocation.
        density: density of the network at the end of the phase, in (0, 1].
        add_weight: creates the variables that store the state, like
            :meth:`keras.layers.Layer.add_weight`.

    Raises:
        ValueError: for a budget of multiply-adds in a network whose layers have unknown ones.

    Example:
        >>> import hydra_tf
        >>> net = keras.Sequential([keras.Input([10]), keras.layers.Dense(10)])
        >>> net = hydra_tf.mask_model(net)
        >>> training = DensityTraining(net, Learned(), 0.01, keras.layers.Layer().add_weight)
        >>> training.start()
        >>> round(training.budget_used(), 3)
        10.0
        >>> training.meet_budget()
        >>> hydra_tf.sparsity.report(net)["total"]["kept"]
        1
    """

    def __init__(
        self,
        net: keras.Model,
        part: Learned,
        density: float,
        add_weight: Callable[..., keras.Variable],
    ) -> None:
        self._net, self._add_weight = net, add_weight
        layers = masked_layers(net)
        self._logits = self._variable("density_logits", len(layers))
        self._velocity = self._variable("density_velocity", len(layers))
        self._penalty = self._variable("density_penalty", 1)
        self.set_target(part, density)

    def set_target(self, part: Learned, density: float) -> None:
        """Set what is trained, and keep the state.

        Args:
            part: the allocation.
            density: density of the network at the end of the phase, in (0, 1].
        """
        self.part, self.density = part, density
        layers = masked_layers(self._net)
        sizes = {str(i): math.prod(layer.kernel.shape) for i, layer in enumerate(layers)}
        floors = smallest_counts(part, sizes, layers[-1].kernel.shape[-1])
        flops = part.budget == "flops"
        costs = weight_costs(self._net, layers) if flops else [1] * len(layers)
        self._sizes = np.array(list(sizes.values()), np.float32)
        self._floors = np.array(list(floors.values()), np.float32)
        costs_of_layers = np.array(costs, np.float64) * self._sizes
        self._shares = (costs_of_layers / costs_of_layers.sum()).astype(np.float32)
        self._lowest = part.k_min * density

    def get_config(self) -> dict[str, Any]:
        """Return what is trained, for the config of a model."""
        return {"allocation": ALLOCATIONS.config(self.part), "density": self.density}

    def _variable(self, name: str, size: int) -> keras.Variable:
        """Return a new variable that has the same value on every replica."""
        return self._add_weight(
            name=name,
            shape=(size,),
            initializer="zeros",
            dtype="float32",
            autocast=False,
            trainable=False,
            aggregation="only_first_replica",
        )

    def start(self) -> None:
        """Set densities, momentum and penalty to those at the begin of the phase."""
        shares = self.part.start_densities(scores_by_name(self._net), self.density)
        above = np.array(list(shares.values())) - self._lowest
        ratios = np.clip(
            above / (1 - self._lowest), min(_LARGEST, _SMALLEST * self.density), _LARGEST
        )
        self._logits.assign(np.log(ratios / (1 - ratios)))
        self._velocity.assign(np.zeros(len(ratios)))
        self._penalty.assign([self.part.gamma])
        refresh_masks(self._net, self.kept())

    def densities(self) -> tf.Tensor:
        """Return the density of each layer, [layers] float32."""
        logits = tf.convert_to_tensor(self._logits)
        return self._lowest + (1.0 - self._lowest) * tf.sigmoid(logits)

    def kept(self) -> list[tf.Tensor]:
        """Return the number of weights that each mask keeps between two steps."""
        counts = tf.round(self.densities() * self._sizes)
        counts = tf.clip_by_value(counts, self._floors, self._sizes)
        return tf.unstack(tf.cast(counts, tf.int32))

    def update(
        self,
        optimizer: keras.optimizers.Optimizer,
        variables: Sequence[keras.Variable],
        gradients: Sequence[tf.Tensor | None],
    ) -> None:
        """Train the densities by one step, before the scores are changed.

        Args:
            optimizer: optimizer of the scores, which gives learning rate and loss scale.
            variables: the variables that the step trains.
            gradients: this replica's share of their gradients, multiplied by the loss scale.
        """
        by_variable = {id(v): g for v, g in zip(variables, gradients, strict=True)}
        sums = []
        for layer in masked_layers(self._net):
            gradient = by_variable.get(id(layer.scores))
            signs = tf.sign(tf.convert_to_tensor(layer.scores))
            # Scores that are frozen, or that the loss does not depend on, have no gradient.
            sums.append(tf.zeros([]) if gradient is None else tf.reduce_sum(signs * gradient))
        slopes = _sum_over_replicas(tf.stack(sums)) / optimizer.scale_loss(1.0)
        # Each replica adds the whole penalty to a sum that is complete.
        slopes += self._penalty_slopes()
        open_share = tf.sigmoid(tf.convert_to_tensor(self._logits))
        slopes *= (1.0 - self._lowest) * open_share * (1.0 - open_share)
        rate = self.part.rate * tf.cast(optimizer.learning_rate, tf.float32)
        velocity = tf.convert_to_tensor(self._velocity)
        changed = self.part.momentum * velocity - rate * slopes
        # A step that loss scaling skips has gradients that are not finite.
        finite = tf.reduce_all(tf.math.is_finite(slopes))
        self._velocity.assign(tf.where(finite, changed, velocity))
        self._logits.assign_add(tf.where(finite, changed, 0.0))

    def _penalty_slopes(self) -> tf.Tensor:
        """Return the gradient of the penalty with respect to the densities."""
        used = tf.reduce_sum(self._shares * self.densities()) / self.density
        weight = tf.where(used > 1.0, tf.convert_to_tensor(self._penalty), 0.0)
        return weight * self._shares / self.density

    def budget_used(self) -> float:
        """Return the density that is trained, as a share of the density of the network."""
        return float(np.sum(self._shares * np.asarray(self.densities())) / self.density)

    def meet_budget(self) -> None:
        """Choose masks that keep the trained shares of the budget and meet it exactly."""
        layers = masked_layers(self._net)
        densities = map(float, np.asarray(self.densities()))
        shares = dict(zip(scores_by_name(self._net), densities, strict=True))
        set_density(
            self._net, self.density, self.part.proportional_to(shares), layers[0].granularity
        )

    def end_epoch(self) -> dict[str, float]:
        """Meet the budget, raise the penalty if the trained densities exceed it, and return logs.

        Returns:
            ``budget_used``, the share of the budget before it was met, and ``density/NAME`` of each
            layer.
        """
        self.meet_budget()
        used = self.budget_used()
        if used > 1.0:
            self._penalty.assign_add([self.part.gamma])
        layers = masked_layers(self._net)
        rows = {f"density/{layer.label}": layer.density for layer in layers}
        return {"budget_used": used, **rows}


def _sum_over_replicas(values: tf.Tensor) -> tf.Tensor:
    """Return the sum of the values of all replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
