"""Densities of the layers that are learned with the scores (HARP)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from hydra_tf.core.types import require_number
from hydra_tf.sparsity.allocation import ALLOCATIONS, Allocation, allocation_of
from hydra_tf.sparsity.density_schedules import DENSITY_SCHEDULES, OneShot
from hydra_tf.sparsity.given_densities import Scores
from hydra_tf.sparsity.methods import METHODS
from hydra_tf.sparsity.topk import kept_count


@ALLOCATIONS.register("learned")
@dataclass(frozen=True)
class Learned(Allocation):
    """Densities that the prune phase learns by gradient descent (Zhao & Wressnegger, ICLR 2023).

    Each layer has the density ``k = lowest + (1 - lowest) * sigmoid(c)`` with a trained number c
    and ``lowest = k_min * density``. The gradient of the loss with respect to k is the sum of those
    with respect to all entries of the mask, pruned ones included. The penalty
    ``weight * max(0, sum(n * k) / (density * sum(n)) - 1)`` over the layers' sizes n leads to the
    budget. After each epoch, masks are chosen that meet the budget exactly: see
    :class:`hydra_tf.training.step.density_training.DensityTraining`.

    Without a prune phase, as in :func:`hydra_tf.set_density`, nothing is learned: densities are in
    proportion to those at the start.

    Args:
        start: density of every layer when the phase begins, in (0, 1], or that of the network if
            this is larger; or an allocation, such as ``"erk"``, ``"lamp"`` or ``"global"``.
        k_min: smallest density of a layer, as a share of that of the network, in [0, 1).
        gamma: weight of the penalty in the first epoch, above 0; it grows by as much with each
            epoch that ends above the budget.
        rate: factor on the learning rate of the optimizer, above 0, with which c is trained.
        momentum: momentum of the gradient descent on c, in [0, 1).
        budget: what the density of the network is a share of: ``"weights"``, or ``"flops"`` for
            multiply-adds per image.

    Raises:
        ValueError: for a parameter out of range, or a start that is learned itself.

    Example:
        >>> import numpy as np
        >>> Learned(start="erk").start_densities({"a": np.ones([3, 3]), "b": np.ones([9, 9])}, 0.2)
        {'a': 0.5, 'b': 0.16666666666666666}
    """

    start: float | str | Mapping[str, Any] | Allocation = 0.1
    k_min: float = 0.1
    gamma: float = 0.01
    rate: float = 1.0
    momentum: float = 0.9
    budget: Literal["weights", "flops"] = "weights"
    trained: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("k_min", "gamma", "rate", "momentum"):
            require_number(name, getattr(self, name))
        for name in ("k_min", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f'{name} of the allocation "learned" must lie in [0, 1), not '
                    f"{getattr(self, name)}."
                )
        for name in ("gamma", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f'{name} of the allocation "learned" must be a finite number above 0, not '
                    f"{getattr(self, name)}."
                )
        if isinstance(self.start, int | float):
            kept_count(self.start, 1)
        elif isinstance(ALLOCATIONS.build(self.start), Learned):
            raise ValueError(
                'start of the allocation "learned" must be a number or an allocation that is not '
                'learned, such as "erk".'
            )

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        """Return densities in proportion to those at the start, which meet the budget."""
        if isinstance(self.start, int | float):
            return dict.fromkeys(scores, density)
        return ALLOCATIONS.build(self.start)(scores, density)

    def start_densities(self, scores: Scores, density: float) -> dict[str, float]:
        """Return the density of each layer when the prune phase begins.

        Args:
            scores: scores of each layer by its name, in the order of the layers.
            density: density of the network at the end of the phase, in (0, 1].

        Example:
            >>> import numpy as np
            >>> Learned().start_densities({"a": np.ones(4)}, 0.01)
            {'a': 0.1}
        """
        if isinstance(self.start, int | float):
            return dict.fromkeys(scores, max(self.start, density))
        return self(scores, density)

    def proportional_to(self, densities: Mapping[str, float]) -> Learned:
        """Return an allocation of densities in proportion to the given ones.

        Args:
            densities: density of each layer by its name, above 0.

        Example:
            >>> import numpy as np
            >>> Learned().proportional_to({"a": 0.2}).start_densities({"a": np.ones(4)}, 0.01)
            {'a': 0.2}
        """
        return replace(self, start=_Given(densities=dict(densities)))


@dataclass(frozen=True)
class _Given(Allocation):
    """Given densities."""

    densities: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, scores: Scores, density: float) -> dict[str, float]:
        return {name: self.densities[name] for name in scores}


def require_prune_phase(
    allocation: Any,
    density_schedule: Any,
    plan: Mapping[str, int],
    method: Any,
    score_perturbation: float = 0.0,
) -> None:
    """Check that densities that are learned have a prune phase, and nothing that contradicts them.

    Args:
        allocation: as in :func:`hydra_tf.set_density`.
        density_schedule: the schedule, or None for ``"one_shot"``.
        plan: epochs of each phase; see :func:`hydra_tf.sparsity.methods.plan_of`.
        method: spec of the pruning method.
        score_perturbation: that of the prune phase.

    Raises:
        ValueError: for learned densities without a prune phase, with a schedule that changes the
            density, or with perturbed scores.

    Example:
        >>> require_prune_phase("erk", None, {"finetune": 1}, "lwm")
    """
    if not isinstance(allocation_of(allocation), Learned):
        return
    learns = "prune" in plan and METHODS.build(method).trains_scores
    if {"prune", "finetune"} & {*plan} and not learns:
        raise ValueError(
            f'The allocation "learned" learns densities in the prune phase, but method "{method}" '
            f"runs {' and '.join(plan)} only; set prune_epochs with a method that trains its "
            'scores, or choose another allocation, such as "erk".'
        )
    schedule = DENSITY_SCHEDULES.build("one_shot" if density_schedule is None else density_schedule)
    if schedule != OneShot():
        raise ValueError(
            'The allocation "learned" lowers densities itself, from its parameter start, so that '
            f"density_schedule={density_schedule!r} would contradict it; leave out one of the two."
        )
    if score_perturbation:
        raise ValueError(
            'The allocation "learned" follows the gradient at the unperturbed scores, which '
            f"score_perturbation={score_perturbation} does not leave; leave out one of the two."
        )
