"""A warning if the scores do not move in the prune phase."""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np
from absl import logging

from hydra_tf.sparsity.model import masked_layers


class ScoreWatch:
    """Compares the scores after the first epoch of the prune phase with those before it.

    Example:
        >>> import hydra_tf
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
        >>> model, watch = hydra_tf.RobustModel(net, "natural"), ScoreWatch()
        >>> watch.begin(model)
        >>> watch.moved(model)
        False
    """

    def __init__(self) -> None:
        self._before: str | None = None

    def begin(self, model: keras.Model) -> None:
        """Remember the scores.

        Args:
            model: a model with masked layers.
        """
        self._before = _hash_of_scores(model)

    def moved(self, model: keras.Model) -> bool:
        """Return whether a score has changed since :meth:`begin`.

        Args:
            model: the same model.
        """
        return self._before is None or self._before != _hash_of_scores(model)

    def end(self, model: keras.Model, logs: dict[str, Any]) -> None:
        """Log a warning if no score has changed since :meth:`begin`, and forget the scores.

        Args:
            model: the same model.
            logs: metrics of the epoch.
        """
        if not self.moved(model):
            logging.warning(
                "hydra_tf: no score has changed in an epoch of the prune phase, with a loss of "
                "%.4g: the gradient of the loss is 0, so that the masks stay those of the first "
                "scores. Do layers output zeros at this density? A higher density, pretraining or "
                "normalisation layers help.",
                logs.get("loss", float("nan")),
            )
        self._before = None


def _hash_of_scores(model: keras.Model) -> str:
    """Return a hash of all scores, since a copy would need the memory of the network."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in masked_layers(model):
        digest.update(np.asarray(layer.scores).tobytes())
    return digest.hexdigest()
