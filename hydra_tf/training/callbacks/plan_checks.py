"""Checks that a `fit` has the length that a pipeline needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def require_lengths(params: Mapping[str, Any], plan: Mapping[str, int], method: Any) -> None:
    """Check the number of epochs, and that the number of steps is known.

    Args:
        params: ``epochs`` and ``steps`` of a `fit`, as Keras gives them to callbacks.
        plan: epochs of each phase.
        method: the pruning method, for the error.

    Raises:
        ValueError: for other epochs than those of the phases, or an unknown number of steps.

    Example:
        >>> require_lengths({"epochs": 3, "steps": 10}, {"pretrain": 2, "finetune": 1}, "lwm")
    """
    epochs = sum(plan.values())
    if params["epochs"] != epochs:
        phases = " + ".join(f"{length} {name}" for name, length in plan.items())
        raise ValueError(
            f"fit(epochs={params['epochs']}) does not match the {epochs} epochs of "
            f"method {method!r} ({phases}); pass epochs={epochs}."
        )
    if not params["steps"]:
        raise ValueError(
            "The length of the dataset is unknown, but the schedules need it; pass "
            "steps_per_epoch, or use dataset.apply(tf.data.experimental.assert_cardinality(n))."
        )
