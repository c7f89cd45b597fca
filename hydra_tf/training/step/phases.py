"""The three phases of training, and the variables that each phase trains."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from hydra_tf.core.keras_models import all_layers
from hydra_tf.sparsity.model import masked_layers


@dataclass(frozen=True)
class Phase:
    """One phase of the pipeline (arXiv 2002.10509, section 3).

    Args:
        name: name in logs.
        index: position in the pipeline; part of every random seed.
        trains_scores: True if the scores are trained, masks are refreshed at every step and
            weights are frozen; False if the weights are trained and scores and masks are
            frozen.
        rate: factor on the learning rate of pretraining.
    """

    name: str
    index: int
    trains_scores: bool
    rate: float


NO_PHASE = -1  # the saved phase of a model that has not entered a phase yet

PHASES = {
    phase.name: phase
    for phase in (
        Phase("pretrain", 0, trains_scores=False, rate=1.0),
        Phase("prune", 1, trains_scores=True, rate=1.0),
        Phase("finetune", 2, trains_scores=False, rate=0.1),
    )
}


def trained_variables(
    model: keras.Model, phase: Phase, train_batchnorm: bool = True
) -> list[keras.Variable]:
    """Return the variables that a phase trains; all others must not change at all.

    Args:
        model: a model with masked layers.
        phase: an entry of :data:`PHASES`.
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
    if phase.trains_scores:
        return [v for v in model.trainable_variables if id(v) in scores | norms]
    return [v for v in model.trainable_variables if id(v) not in scores]
