"""Number of ascent steps and their length."""

from __future__ import annotations


def check_steps(steps: int, step_size: float | None = None) -> None:
    """Check the number of steps and the step size.

    Args:
        steps: number of steps.
        step_size: length of a step; None for the default.

    Raises:
        ValueError: for a negative number of steps or a step size that is not positive.

    Example:
        >>> check_steps(10, 2 / 255)
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}.")
    if step_size is not None and not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be a positive number, not {step_size}.")


def step_size_or_default(step_size: float | None, epsilon: float, steps: int) -> float:
    """Return the step size, ``2.5 * epsilon / steps`` (Madry et al., 2018) if it is None.

    Example:
        >>> step_size_or_default(None, 0.2, 10), step_size_or_default(0.01, 0.2, 10)
        (0.05, 0.01)
    """
    return 2.5 * epsilon / max(1, steps) if step_size is None else step_size
