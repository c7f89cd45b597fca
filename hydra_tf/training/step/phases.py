"""The three phases of training, and the variables that each phase trains."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import keras

from hydra_tf.core.keras_models import all_layers
from hydra_tf.core.types import require_number
from hydra_tf.sparsity.methods import PruningMethod
from hydra_tf.sparsity.model import masked_layers


@dataclass(frozen=True)
class Phase:
    """One phase of the pipeline (arXiv 2002.10509, section 3).

    Args:
        name: name in logs.
        index: position in the pipeline; part of every random seed.
        trains_scores: whether scores are trained, and masks refreshed at every step.
        rate: factor on the learning rate of pretraining.
        trains_weights: whether weights are trained; BatchNorm's may be in any case.
        score_perturbation: norm of the perturbation at which scores are trained, as a share of the
            norm of the scores of each layer; see :mod:`.score_perturbation`.
    """

    name: str
    index: int
    trains_scores: bool
    rate: float
    trains_weights: bool = True
    score_perturbation: float = 0.0


NO_PHASE = -1  # the saved phase of a model that has not entered a phase yet

PHASES = {
    phase.name: phase
    for phase in (
        Phase("pretrain", 0, trains_scores=False, rate=1.0),
        Phase("prune", 1, trains_scores=True, rate=1.0, trains_weights=False),
        Phase("finetune", 2, trains_scores=False, rate=0.1),
    )
}


def phase_variants(
    plan: Collection[str], method: PruningMethod, gradual: bool, score_perturbation: float
) -> dict[str, Phase]:
    """Return the entries of :data:`PHASES` with the changes that a pipeline asks for.

    Args:
        plan: names of the phases of the pipeline.
        method: the pruning method; a joint one trains the weights in the prune phase too.
        gradual: whether pretraining trains scores together with the weights, if the method does.
        score_perturbation: that of the prune phase.

    Raises:
        ValueError: for a perturbation below 0, or one without a prune phase that trains scores.
        TypeError: for a perturbation that is not a number.

    Example:
        >>> from hydra_tf.sparsity import METHODS
        >>> hydra = METHODS.build("hydra")
        >>> phase_variants(["pretrain", "prune"], hydra, False, 0.01)["prune"].score_perturbation
        0.01
    """
    require_number("score_perturbation", score_perturbation)
    if not 0 <= score_perturbation < float("inf"):
        raise ValueError(
            "score_perturbation is a share of the norm of the scores, at least 0 and finite, not "
            f"{score_perturbation}."
        )
    trains_scores = method.trains_scores
    prune = replace(PHASES["prune"], trains_scores=trains_scores, trains_weights=method.joint)
    if score_perturbation and not (trains_scores and "prune" in plan):
        raise ValueError(
            f"score_perturbation={score_perturbation} needs a prune phase, but the phases are "
            f"{', '.join(plan)}; leave it out, or set prune_epochs with a method that trains its "
            "scores."
        )
    return {
        **PHASES,
        "pretrain": replace(PHASES["pretrain"], trains_scores=gradual and trains_scores),
        "prune": replace(prune, score_perturbation=float(score_perturbation)),
    }


def trained_variables(
    model: keras.Model, phase: Phase, train_batchnorm: bool = True
) -> list[keras.Variable]:
    """Return the variables that a phase trains; all others must not change at all.

    Args:
        model: a model with masked layers.
        phase: an entry of :data:`PHASES`, or a variant of it.
        train_batchnorm: whether gamma and beta of BatchNorm are trained with the scores.

    Returns:
        A subset of ``model.trainable_variables``; layers that the user froze stay frozen.

    Example:
        >>> import keras, hydra_tf
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> [v.name for v in trained_variables(hydra_tf.mask_model(net), PHASES["prune"])]
        ['scores']
    """
    scores = {id(layer.scores) for layer in masked_layers(model)}
    norms = {
        id(variable)
        for layer in all_layers(model)
        if train_batchnorm and isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.trainable_variables
    }
    variables: list[keras.Variable] = list(model.trainable_variables)
    if not phase.trains_weights:
        return [v for v in variables if id(v) in scores | norms]
    return [v for v in variables if phase.trains_scores or id(v) not in scores]
