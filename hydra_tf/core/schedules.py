"""Pure functions from a step to a value."""

from __future__ import annotations

import math
from typing import Any


def warm_cosine(step: int, steps: int, peak: float, warmup: float = 0.0) -> float:
    """Return a rate that rises linearly to `peak` and falls to 0 along half a cosine.

    Args:
        step: number of steps done, from 0.
        steps: length of the whole schedule in steps.
        peak: the largest rate.
        warmup: share of the steps, in [0, 1), spent rising.

    Example:
        >>> [round(warm_cosine(step, 100, 0.1, 0.1), 3) for step in (0, 9, 10, 55, 100)]
        [0.01, 0.1, 0.1, 0.05, 0.0]
    """
    rising = round(warmup * steps)
    if step < rising:
        return peak * ((step + 1) / rising)
    done = min(1.0, (step - rising) / max(1, steps - rising))
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))


def constant(step: int, steps: int, peak: float, warmup: float = 0.0) -> float:
    """Return a rate that rises linearly to `peak` and stays there; arguments as above.

    Example:
        >>> [constant(step, 100, 0.1, 0.02) for step in (0, 1, 50)]
        [0.05, 0.1, 0.1]
    """
    rising = round(warmup * steps)
    return peak * min(1.0, (step + 1) / max(1, rising))


SCHEDULES = {"cosine": warm_cosine, "constant": constant}


def linear(progress: Any) -> Any:
    """Return `progress` itself: from 0 to 1 at one speed.

    Example:
        >>> linear(0.5)
        0.5
    """
    return progress


def smoothed(progress: Any) -> Any:
    """Return a share that leaves 0 with the fourth power and goes on at one speed to 1.

    The first quarter is the power; value and slope agree where the line takes over. Bounds
    are quick to fall apart while a radius is small, and slow growth there keeps training
    stable (the smoothed schedule of Xu et al., NeurIPS 2020).

    Args:
        progress: number or scalar tensor in [0, 1].

    Example:
        >>> [round(smoothed(progress), 3) for progress in (0.0, 0.125, 0.25, 0.625, 1.0)]
        [0.0, 0.005, 0.077, 0.538, 1.0]
    """
    knee = 0.25
    scale = 1.0 / (knee**4 + 4 * knee**3 * (1 - knee))
    beyond = _positive(progress - knee)
    return scale * ((progress - beyond) ** 4 + 4 * knee**3 * beyond)


def _positive(value: Any) -> Any:
    """The value or 0, of a number or a tensor."""
    return 0.5 * (value + abs(value))


RAMPS = {"linear": linear, "smoothed": smoothed}
