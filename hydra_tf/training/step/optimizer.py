"""The optimizer that all phases share: what is supported, and how its state is reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def optimizer_settings(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return an optimizer's config, or that of the optimizer inside a loss-scaling wrapper.

    Example:
        >>> inner = keras.optimizers.SGD(0.5, nesterov=True)
        >>> optimizer_settings(keras.optimizers.LossScaleOptimizer(inner))["nesterov"]
        True
    """
    config: dict[str, Any] = optimizer.get_config()
    inner = config.get("inner_optimizer")
    return inner["config"] if inner else config


def require_supported(optimizer: keras.optimizers.Optimizer) -> None:
    """Check that an optimizer does not change frozen variables, and counts every step.

    Raises:
        ValueError: for an optimizer that averages weights or accumulates gradients.

    Example:
        >>> require_supported(keras.optimizers.SGD(0.1, momentum=0.9))
    """
    settings = optimizer_settings(optimizer)
    if settings.get("use_ema"):
        raise ValueError(
            "An optimizer with use_ema=True overwrites variables that a phase must not change; "
            "remove it, and for an average of the weights train with "
            "hydra_tf.training.train(..., options=LoopOptions(average=0.999))."
        )
    steps = settings.get("gradient_accumulation_steps")
    if steps is not None and steps > 1:
        raise ValueError(
            f"An optimizer with gradient_accumulation_steps={steps} counts one step in {steps}, "
            "so that schedules would not reach their end; remove it, and to process a large batch "
            "in microbatches train with hydra_tf.training.train(..., options=LoopOptions(step="
            f"StepOptions(microbatches={steps})))."
        )


def require_scope(strategy: tf.distribute.Strategy, variables: Sequence[keras.Variable]) -> None:
    """Check that variables were created within the scope of a tf.distribute strategy.

    Args:
        strategy: strategy that trains the variables.
        variables: Keras variables.

    Raises:
        ValueError: naming the first variable created elsewhere, and what to do.
    """
    for variable in variables:
        if not strategy.extended.variable_created_in_scope(variable.value):
            raise ValueError(
                f'The variable "{variable.path}" does not belong to the tf.distribute strategy '
                "that is to train it; build the network, put it into a RobustModel and compile "
                "within one strategy.scope()."
            )


class OptimizerState:
    """Builds the state of an optimizer, and resets it to that of a new optimizer.

    It remembers the variables that the optimizer was built for, because layers may be frozen
    afterwards. It is not a Keras object, so that Keras does not track these variables again.
    """

    def __init__(self) -> None:
        self._optimizer: Any = None
        self._variables: list[keras.Variable] = []

    def note_built(
        self, optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
    ) -> None:
        """Remember the variables that an optimizer was built for."""
        self._optimizer, self._variables = optimizer, list(variables)

    def build(
        self, optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
    ) -> None:
        """Build an optimizer unless it is built already."""
        if not optimizer.built:
            optimizer.build(list(variables))
        if optimizer is not self._optimizer:
            self.note_built(optimizer, variables)

    def reset(self) -> None:
        """Reset the optimizer to the state of a new one with the same learning rate."""
        fresh = keras.optimizers.deserialize(keras.optimizers.serialize(self._optimizer))
        fresh.build(self._variables)
        for variable, value in zip(self._optimizer.variables, fresh.variables, strict=True):
            variable.assign(value)
