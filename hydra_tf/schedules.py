"""Pure functions from a step to a value."""

from __future__ import annotations

import math


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
