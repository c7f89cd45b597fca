"""The pruning methods: how scores are initialised, and whether a prune phase trains them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra_tf.core.registry import Registry
from hydra_tf.core.types import require_number
from hydra_tf.sparsity.granularity import GRANULARITIES
from hydra_tf.sparsity.score_init import SCORE_INITS


@dataclass(frozen=True)
class PruningMethod:
    """How a network is pruned.

    Args:
        score_init: initialisation of the scores when pruning begins; see
            :func:`hydra_tf.sparsity.initial_scores`.
        joint: whether the prune phase trains the weights too, best with a density schedule such as
            ``"cubic"``; methods that do not train scores then have a prune phase, in which they
            compute the scores from the weights again whenever the density changes (Zhu and Gupta,
            2017). By default the weights are frozen in the prune phase, as in the paper.

    Raises:
        ValueError: for an unknown initialisation.
    """

    score_init: str = "scaled"
    joint: bool = False
    trains_scores: ClassVar[bool] = False
    allocation: ClassVar[str] = "erk"  # see default_allocation

    def __post_init__(self) -> None:
        SCORE_INITS.build(self.score_init)

    @property
    def has_prune_phase(self) -> bool:
        """Whether there is a phase between pretraining and fine-tuning."""
        return self.trains_scores or self.joint

    @property
    def needs_gradient(self) -> bool:
        """Whether the score initialisation uses the gradient of the loss on the first batch."""
        return bool(getattr(SCORE_INITS.build(self.score_init), "needs_gradient", False))


METHODS: Registry[PruningMethod] = Registry("pruning method", "hydra_tf.sparsity")


@METHODS.register("hydra")
@dataclass(frozen=True)
class Hydra(PruningMethod):
    """Scores are trained in a prune phase (arXiv 2002.10509, section 3).

    Args:
        score_init: initialisation from which the search starts.
        joint: whether weights and scores are trained together in the prune phase.

    Example:
        >>> METHODS.build("hydra:score_init=magnitude").trains_scores
        True
    """

    trains_scores: ClassVar[bool] = True
    allocation: ClassVar[str] = "global"


@METHODS.register("lwm")
@METHODS.register("random", score_init="random")
@METHODS.register("snip", score_init="snip")
@dataclass(frozen=True)
class OneShot(PruningMethod):
    """The initial scores decide what is kept; there is no prune phase unless pruning is joint.

    ``"lwm"`` (least weight magnitude), ``"random"`` and ``"snip"`` (Lee et al., ICLR 2019)
    are this method with different score initialisations.

    Args:
        score_init: initialisation of the scores.
        joint: whether the density falls in a prune phase that trains the weights.

    Example:
        >>> METHODS.build("snip").score_init
        'snip'
    """


def default_allocation(method: Any, granularity: Any = "element") -> str:
    """Return the allocation that a pipeline uses if none is given.

    The tables of docs/densities_per_layer.md led to this choice: ``"global"`` for methods that
    train their scores, which can correct a ranking of all layers, and ``"erk"`` for the others. A
    granularity that fixes the density of every layer leaves only ``"uniform"``.

    Args:
        method: spec of a pruning method.
        granularity: spec of a granularity.

    Raises:
        ValueError: for an unknown method or granularity.

    Example:
        >>> default_allocation("hydra"), default_allocation("lwm")
        ('global', 'erk')
    """
    if GRANULARITIES.build(granularity).fixes_density:
        return "uniform"
    return METHODS.build(method).allocation


def plan_of(
    method: str | Mapping[str, Any] | PruningMethod,
    pretrain_epochs: int,
    prune_epochs: int,
    finetune_epochs: int,
    gradual: bool = False,
) -> dict[str, int]:
    """Return the epochs of each phase that a pruning method goes through, in order.

    Args:
        method: spec of a pruning method, such as ``"hydra"`` or ``"lwm"``.
        pretrain_epochs: epochs that train all weights.
        prune_epochs: epochs of the prune phase; ignored for methods that have none.
        finetune_epochs: epochs that train the kept weights.
        gradual: whether scores are trained, and weights pruned, in pretraining already.

    Raises:
        ValueError: an unknown method, negative epochs, no epochs left, or no prune epochs
            between pretraining and fine-tuning for a method that has a prune phase.
        TypeError: epochs that are not whole numbers.

    Example:
        >>> plan_of("lwm", 3, 2, 1)
        {'pretrain': 3, 'finetune': 1}
    """
    has_prune_phase = METHODS.build(method).has_prune_phase
    lengths = {"pretrain": pretrain_epochs, "prune": prune_epochs, "finetune": finetune_epochs}
    for name, epochs in lengths.items():
        require_number(f"{name}_epochs", epochs, whole=True)
    if min(lengths.values()) < 0:
        raise ValueError(
            f"pretrain_epochs, prune_epochs and finetune_epochs must be at least 0, not {lengths}."
        )
    skips = pretrain_epochs and finetune_epochs and not prune_epochs
    if has_prune_phase and skips and not gradual:
        raise ValueError(
            f'Method "{method}" prunes between pretraining and fine-tuning; set prune_epochs, or '
            'use the method "lwm".'
        )
    plan = {k: n for k, n in lengths.items() if n and (has_prune_phase or k != "prune")}
    if not plan:
        raise ValueError(
            f'Method "{method}" has no epochs to run: at least one of pretrain_epochs, '
            "prune_epochs (only for methods with a prune phase) and finetune_epochs must be above "
            "0."
        )
    return plan
