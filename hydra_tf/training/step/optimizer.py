"""The one optimizer of all phases: what it may be, and the state of a new one for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def settings_of(optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's config, that within a loss-scaling wrapper if there is one.

    Example:
        >>> inner = keras.optimizers.SGD(0.5, nesterov=True)
        >>> settings_of(keras.optimizers.LossScaleOptimizer(inner))["nesterov"]
        True
    """
    config: dict[str, Any] = optimizer.get_config()
    inner = config.get("inner_optimizer")
    return inner["config"] if inner else config


def require_supported(optimizer: Any) -> None:
    """Refuse an optimizer that would move frozen variables or count its steps otherwise.

    Raises:
        ValueError: for a moving average or accumulated gradients within the optimizer.

    Example:
        >>> require_supported(keras.optimizers.SGD(0.1, momentum=0.9))
    """
    settings = settings_of(optimizer)
    if settings.get("use_ema"):
        raise ValueError(
            "An optimizer with use_ema=True overwrites variables that a phase must not move; leave "
            "it out, and for an average of the weights train with hydra_tf.training.train(..., "
            "options=LoopOptions(average=0.999))."
        )
    steps = settings.get("gradient_accumulation_steps")
    if steps is not None and steps > 1:
        raise ValueError(
            f"An optimizer with gradient_accumulation_steps={steps} counts one step in {steps}, "
            "so that schedules would not reach their end; leave it out, and to work a large batch "
            "in parts train with hydra_tf.training.train(..., options=LoopOptions(step="
            f"StepOptions(microbatches={steps})))."
        )


def require_scope(strategy: Any, variables: Sequence[Any]) -> None:
    """Refuse variables that do not belong to a tf.distribute strategy.

    Args:
        strategy: what is to train them.
        variables: Keras variables.

    Raises:
        ValueError: naming the first, and what to do.
    """
    for variable in variables:
        if not strategy.extended.variable_created_in_scope(variable.value):
            raise ValueError(
                f'The variable "{variable.path}" does not belong to the tf.distribute strategy '
                "that is to train it; build the network, put it into a RobustModel and compile "
                "within one strategy.scope()."
            )


class OptimizerState:
    """Builds the state of an optimizer, and gives it that of a new one.

    The variables that it was built for are kept: layers may be frozen afterwards. It is no
    Keras object, lest a model take the variables for its own.
    """

    def __init__(self) -> None:
        self._optimizer: Any = None
        self._variables: list[Any] = []

    def note(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Keep which variables an optimizer was built for."""
        self._optimizer, self._variables = optimizer, list(variables)

    def build(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Build an optimizer that is not built yet."""
        if not optimizer.built:
            optimizer.build(list(variables))
        if optimizer is not self._optimizer:
            self.note(optimizer, variables)

    def renew(self) -> None:
        """Give the optimizer the state of a new one, its learning rate as it is."""
        fresh = keras.optimizers.deserialize(keras.optimizers.serialize(self._optimizer))
        fresh.build(self._variables)
        for variable, value in zip(self._optimizer.variables, fresh.variables, strict=True):
            variable.assign(value)
