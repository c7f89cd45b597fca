"""The pruning methods: where the scores start, and whether they are trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """How a network is pruned.

    Args:
        score_init: initialisation of the scores when pruning begins.
        learns: whether a prune phase trains the scores; otherwise their first ranking holds.
    """

    score_init: str
    learns: bool


METHODS = {
    "hydra": Method("scaled", learns=True),
    "lwm": Method("scaled", learns=False),
    "random": Method("random", learns=False),
    "snip": Method("snip", learns=False),
}
