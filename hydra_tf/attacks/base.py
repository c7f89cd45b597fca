"""The only ascent loop, and what every attack shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hydra_tf.attacks.inference import Predict, inference
from hydra_tf.checks.batches import check_use
from hydra_tf.checks.labels import sparse_labels
from hydra_tf.core.graphs import Graphs
from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import stateless_seed
from hydra_tf.core.registry import Registry
from hydra_tf.core.types import Ball, Norm


@dataclass(frozen=True)
class Attack:
    """An attack within a norm ball on a model that outputs logits.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        Ball(self.norm, self.epsilon)  # refuses what is no ball

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return adversarial images; pure, for use inside a graph.

        Args:
            predict: maps images to logits in inference mode.
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] integer labels.
            seed: int32 tensor of shape [2].
        """
        raise NotImplementedError

    def __call__(self, model: Any, x: Any, y: Any, seed: int = 0) -> tf.Tensor:
        """Attack a model on one batch.

        The graph of an attack on a model is traced once and kept with the model, until a layer
        of it is changed in place.

        Args:
            model: a Keras model (or :class:`hydra_tf.RobustModel`) that outputs logits.
            x: [batch, ...] images in [0, 1].
            y: [batch] integer labels, or [batch, classes] one-hot.
            seed: every random number of the attack follows from it.

        Returns:
            [batch, ...] float32 adversarial images within the ball and [0, 1].

        Raises:
            ValueError: a model that outputs probabilities, images outside [0, 1] or of the
                wrong shape, labels out of range or not as many.
        """
        if tf.executing_eagerly():
            check_use(model, x, y)
        x = tf.cast(x, tf.float32)
        y = sparse_labels(y)
        if not tf.executing_eagerly():
            return self.perturb(inference(model), x, y, stateless_seed(seed))
        return _compiled(self, model)(x, y, stateless_seed(seed))


_graphs = Graphs()


def _compiled(attack: Attack, model: Any) -> Any:
    """The traced graph of this attack on this model; it goes when the model goes."""

    def trace(model: Callable[[], Any]) -> Any:
        @tf.function(reduce_retracing=True)
        def run(x: Any, y: Any, seed: Any) -> Any:
            return attack.perturb(inference(model()), x, y, seed)

        return run

    return _graphs.get(model, attack, trace)


ATTACKS: Registry[Attack] = Registry("attack", "hydra_tf.attacks")
build = ATTACKS.build
