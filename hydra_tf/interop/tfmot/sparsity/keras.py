"""The names of ``tfmot.sparsity.keras``, for Keras 3 models.

Schedules, `PrunableLayer` and `PruningPolicy` are TFMOT's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra_tf.interop.tfmot.importing import import_tfmot
from hydra_tf.interop.tfmot.pruning import prune_low_magnitude, prune_scope, strip_pruning
from hydra_tf.interop.tfmot.pruning_callbacks import PruningSummaries, UpdatePruningStep

if TYPE_CHECKING:
    ConstantSparsity: Any
    PolynomialDecay: Any
    PrunableLayer: Any
    PruningPolicy: Any
    PruningSchedule: Any

_OF_TFMOT = (
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruningPolicy",
    "PruningSchedule",
)

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]


def __getattr__(name: str) -> Any:
    # Loaded at first use, since TFMOT loads Keras 2.
    if name in _OF_TFMOT:
        return getattr(import_tfmot().sparsity.keras, name)
    raise AttributeError(f"hydra_tf.interop.tfmot.sparsity.keras has no name {name!r}.")
