"""Schedules of learning rates and of epsilon: pure functions of a step or of progress."""

from __future__ import annotations

import math
from typing import Any


def warm_cosine(step: int, steps: int, peak: float, warmup: float = 0.0) -> float:
    """Return a rate that rises linearly to `peak` and falls to 0 along half a cosine.

    Args:
        step: number of steps done, from 0.
        steps: length of the whole schedule in steps.
        peak: the largest rate.
        warmup: share of the steps, in [0, 1), in which the rate rises.

    Example:
        >>> [round(warm_cosine(step, 100, 0.1, 0.1), 3) for step in (0, 9, 10, 55, 100)]
        [0.01, 0.1, 0.1, 0.05, 0.0]
    """
    warmup_steps = round(warmup * steps)
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))


def constant(step: int, steps: int, peak: float, warmup: float = 0.0) -> float:
    """Return a rate that rises linearly to `peak` and stays there; see :func:`warm_cosine`.

    Example:
        >>> [constant(step, 100, 0.1, 0.02) for step in (0, 1, 50)]
        [0.05, 0.1, 0.1]
    """
    warmup_steps = round(warmup * steps)
    return peak * min(1.0, (step + 1) / max(1, warmup_steps))


SCHEDULES = {"cosine": warm_cosine, "constant": constant}


def linear(progress: Any) -> Any:
    """Return `progress` itself: linear from 0 to 1.

    Example:
        >>> linear(0.5)
        0.5
    """
    return progress


def smoothed(progress: Any) -> Any:
    """Return a share that grows with the fourth power of progress, then linearly to 1.

    The power covers the first quarter; a line continues it with the same value and slope. Bounds
    loosen quickly while the radius is small, so slow growth there keeps training stable (the
    smoothed schedule of Xu et al., NeurIPS 2020).

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
    """Return the positive part of a number or a tensor."""
    return 0.5 * (value + abs(value))


RAMPS = {"linear": linear, "smoothed": smoothed}
