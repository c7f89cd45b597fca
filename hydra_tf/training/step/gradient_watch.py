"""A warning in `fit` and `evaluate` of validation attacks that find no gradients."""

from __future__ import annotations

import keras
import tensorflow as tf
from absl import logging

from hydra_tf.attacks.base import attack_name
from hydra_tf.attacks.gradients import missing_gradients
from hydra_tf.objectives.validation import ValidationMeasure


class GradientWatch:
    """The share of validation images without a gradient, and whether there was a warning of it.

    Keras tracks and saves the metrics that are attributes of a model, but not the one here, so that
    metrics and files of a model are what they were without it.

    Example:
        >>> watch = GradientWatch()
        >>> watch.update(tf.constant([1.0, 0.0, 0.0]), tf.constant([1.0, 1.0, 0.0]))
        >>> float(watch.share.result())
        0.5
    """

    def __init__(self) -> None:
        self.share = keras.metrics.Mean(name="zero_gradient_share")
        self.warned = False
        self.known = False  # whether the validation attack tells of its gradients

    def update(self, without_gradient: tf.Tensor | None, correct: tf.Tensor) -> None:
        """Count the images of a batch.

        Args:
            without_gradient: [batch] ones for images without a gradient; None if that is not known.
            correct: [batch] ones for images that are correct without an attack.
        """
        if without_gradient is not None:
            self.share.update_state(without_gradient, sample_weight=correct)

    def warn_once(self, measure: ValidationMeasure | None, share: float) -> None:
        """Warn of a large share, unless that was done since `warned` was set to false.

        Args:
            measure: the validation measure.
            share: images without a gradient, of those that are correct without an attack.
        """
        name = attack_name(getattr(measure, "attack", measure))
        sentence = missing_gradients(name, share, rescued=None)
        if sentence and not self.warned:
            self.warned = True
            logging.warning("%s It is the validation attack of the model.", sentence)
