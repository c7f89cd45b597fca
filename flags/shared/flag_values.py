"""Checks and conversions of flag values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .launcher import FLAGS, UsageError


def at_least(name: str, least: int) -> None:
    """Refuse a whole-number flag below its least value.

    Raises:
        UsageError: with the flag and its value.
    """
    if FLAGS[name].value < least:
        raise UsageError(f"--{name} must be at least {least}, not {FLAGS[name].value}.")


def attack_specs(text: str) -> list[str]:
    """Split ``"pgd:steps=50;fgsm"`` into its specs."""
    return [spec.strip() for spec in text.split(";") if spec.strip()]


def ball_of(objective: Any) -> dict[str, Any]:
    """The norm and epsilon of an objective, as defaults for attacks."""
    return {key: getattr(objective, key) for key in ("norm", "epsilon") if hasattr(objective, key)}


def positive_list(name: str, text: Sequence[str], convert: Callable[[str], Any]) -> list[Any]:
    """Convert the entries of a list flag.

    Raises:
        UsageError: for an entry that does not convert.
    """
    try:
        return [convert(entry) for entry in text]
    except ValueError as error:
        raise UsageError(f"--{name}: {text!r} is not a list of numbers.") from error
