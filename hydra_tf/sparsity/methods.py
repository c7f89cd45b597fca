"""The pruning methods: where the scores start, and whether they are trained."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_tf.core.types import require_number


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


def plan_of(
    method: str, pretrain_epochs: int, prune_epochs: int, finetune_epochs: int
) -> dict[str, int]:
    """Return the epochs of each phase that a method goes through, in order.

    Raises:
        ValueError: negative epochs, no epoch left, or a method that learns its scores but
            has no epochs for it between pretraining and fine-tuning.
        TypeError: epochs that are no whole numbers.

    Example:
        >>> plan_of("lwm", 3, 2, 1)
        {'pretrain': 3, 'finetune': 1}
    """
    lengths = {"pretrain": pretrain_epochs, "prune": prune_epochs, "finetune": finetune_epochs}
    for name, epochs in lengths.items():
        require_number(f"{name}_epochs", epochs, whole=True)
    if min(lengths.values()) < 0:
        raise ValueError(
            f"pretrain_epochs, prune_epochs and finetune_epochs must be at least 0, not {lengths}."
        )
    learns = METHODS[method].learns
    if learns and pretrain_epochs and finetune_epochs and not prune_epochs:
        raise ValueError(
            f'Method "{method}" trains its scores between pretraining and fine-tuning; give it '
            "prune_epochs, or take lwm."
        )
    plan = {k: n for k, n in lengths.items() if n and (learns or k != "prune")}
    if not plan:
        raise ValueError(
            f'Method "{method}" has nothing to do: its pretrain_epochs, prune_epochs and '
            "finetune_epochs must not be all 0 (only hydra has a prune phase)."
        )
    return plan
