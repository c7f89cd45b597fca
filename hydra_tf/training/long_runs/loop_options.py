"""Options of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras

from hydra_tf.training.step.microbatches import StepOptions


@dataclass(frozen=True)
class LoopOptions:
    """How a training loop runs.

    Args:
        step: how a step is computed.
        steps_per_execution: steps in one call of a graph, as in Keras; callbacks are called for
            the last of them.
        average: decay of a moving average of the weights, which replaces them in evaluation and
            at the end of a phase; None for no average.
        checkpoint_seconds: seconds between checkpoints within an epoch.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> LoopOptions(steps_per_execution=4).average is None
        True
    """

    step: StepOptions = field(default_factory=StepOptions)
    steps_per_execution: int = 1
    average: float | None = None
    checkpoint_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.steps_per_execution < 1:
            raise ValueError(
                f"steps_per_execution must be at least 1, not {self.steps_per_execution}."
            )
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"The decay of a moving average is in (0, 1), not {self.average}.")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(
                f"checkpoint_seconds must be at least 0, not {self.checkpoint_seconds}."
            )


def require_own_options(model: keras.Model) -> None:
    """Check that a model was not compiled with options that the training loop has itself.

    Args:
        model: a compiled model.

    Raises:
        ValueError: for steps_per_execution or run_eagerly, which the loop would ignore.

    Example:
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> net.compile("sgd")
        >>> require_own_options(net)
    """
    if model.steps_per_execution > 1:
        raise ValueError(
            f"train would ignore compile(steps_per_execution={model.steps_per_execution}); pass "
            f"options=LoopOptions(steps_per_execution={model.steps_per_execution}) instead."
        )
    if model.run_eagerly:
        raise ValueError(
            "train would ignore compile(run_eagerly=True), because its steps are graphs; leave it "
            "out, or train with fit."
        )
