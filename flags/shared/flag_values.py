"""Checks and conversions of flag values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hydra_tf.core.specs import split_outside, without_brackets

from .launcher import FLAGS, UsageError

Number = TypeVar("Number", int, float)


def at_least(name: str, smallest: int) -> None:
    """Check that a whole-number flag is at least `smallest`.

    Raises:
        UsageError: with the flag and its value.
    """
    if FLAGS[name].value < smallest:
        raise UsageError(f"--{name} must be at least {smallest}, not {FLAGS[name].value}.")


def seed(name: str) -> None:
    """Check that a flag is a seed.

    Raises:
        ValueError: with the flag and its value.
    """
    from hydra_tf.core.types import require_seed

    require_seed(f"--{name}", FLAGS[name].value)


def attack_specs(text: str) -> list[str]:
    """Return the specs in a text such as ``"pgd:steps=50;fgsm"``."""
    return [spec.strip() for spec in split_outside(text, ";") if spec.strip()]


def spec_list(text: str) -> list[str]:
    """Return the specs in a text; one that has commas itself is in brackets.

    Example:
        >>> spec_list("uniform,(erk:min_kept=4,every_output=true)")
        ['uniform', 'erk:min_kept=4,every_output=true']
    """
    return [without_brackets(spec) for spec in split_outside(text, ",")] if text else []


def ball_of(objective: object) -> dict[str, Any]:
    """Return the norm and epsilon of an objective, as defaults for attacks."""
    return {key: getattr(objective, key) for key in ("norm", "epsilon") if hasattr(objective, key)}


def radii(ball: Mapping[str, Any], multiples: Sequence[float]) -> list[float]:
    """Return multiples of the epsilon of a ball; those in Linf are 1 at most.

    Example:
        >>> radii({"norm": "linf", "epsilon": 0.5}, (0.5, 1.0, 2.0, 3.0))
        [0.25, 0.5, 1.0]
    """
    most = 1.0 if ball.get("norm", "linf") == "linf" else math.inf
    return list(dict.fromkeys(min(most, multiple * ball["epsilon"]) for multiple in multiples))


def number_list(name: str, text: Sequence[str], convert: Callable[[str], Number]) -> list[Number]:
    """Return the converted entries of a list flag.

    Raises:
        UsageError: for an entry that does not convert.
    """
    try:
        return [convert(entry) for entry in text]
    except ValueError as error:
        raise UsageError(f"--{name}: {text!r} is not a list of numbers.") from error
