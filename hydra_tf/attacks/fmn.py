"""Fast minimum-norm attack (Pintor, Roli, Brendel and Biggio, NeurIPS 2021, arXiv 2102.12827)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from hydra_tf.attacks.ascent import Evaluation, ascent_loop
from hydra_tf.attacks.base import ATTACKS, GradientAttack
from hydra_tf.attacks.gradients import FOUND, UNUSED, Perturbed
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import UNTARGETED, margin, misclassified
from hydra_tf.attacks.norms import broadcast_to_images, lengths, project, steepest_step
from hydra_tf.attacks.step_sizes import check_steps
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Logits, Norm, Seed

LAST_GAMMA = 0.001
LAST_STEP = 0.01  # the last step size as a share of the first
# Multiples of the step size that a search tries.
SEARCHED_SIZES = {"linf": (0.1, 1.0), "l2": (1.0, 10.0)}
_ROUNDING = 1e-5  # least margin of a misclassified image, as a share of the right logit


class Nearest(NamedTuple):
    """The nearest misclassified images so far.

    Args:
        images: [batch, ...]; the image itself if it is misclassified or none was found.
        distance: [batch, 1, ...] their distances; infinite if none was found.
        gradients: [batch] int32, the best gradient that was found.
    """

    images: Images
    distance: tf.Tensor
    gradients: tf.Tensor

    def updated(self, other: Nearest) -> Nearest:
        """Return the nearer image of two for each sample, and the better gradients."""
        return Nearest(
            tf.where(other.distance < self.distance, other.images, self.images),
            tf.minimum(other.distance, self.distance),
            tf.maximum(other.gradients, self.gradients),
        )


@ATTACKS.register()
@dataclass(frozen=True)
class FMN(GradientAttack):
    """FMN: ascent in a ball that shrinks while the image is misclassified, and grows otherwise.

    The attack looks for the smallest change that breaks a sample, however large, which counts if
    it lies in the ball of `epsilon`. A sample that is misclassified, or that is not broken, is
    returned unchanged. The attack draws no random numbers.

    In step k the radius of the ball is multiplied by ``1 - gamma_k`` if the sample is broken, else
    by ``1 + gamma_k``. Until it is broken for the first time, the radius is ``1 + gamma_k`` times
    the distance at which the linearised margin is 0. Along half a cosine, ``gamma_k`` falls to
    0.001 and the step size to a hundredth.

    Linf steps follow the sign of the gradient, as those of PGD. The paper takes a gradient of L2
    length 1 there too, which at its step size of 1 needs more steps on large images.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps.
        step_size: length of the first step in the same norm, before the projection.
        gamma: relative change of the radius in the first step, in (0, 1).
        loss: the loss to maximise, ``"margin"`` (logit difference) or ``"ce"`` (cross-entropy).
        search: whether to attack with both losses and two step sizes (0.1 and 1 times `step_size`
            in Linf, 1 and 10 times in L2), and keep the smallest change of each sample; `loss` is
            ignored.

    Example:
        >>> [(each.loss, each.step_size) for each in FMN(search=True).runs]
        [('margin', 0.1), ('margin', 1.0), ('ce', 0.1), ('ce', 1.0)]
    """

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    loss: Literal["margin", "ce"] = "margin"
    search: bool = False
    finds_smallest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, self.step_size)
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be between 0 and 1, not {self.gamma}.")

    @property
    def runs(self) -> tuple[FMN, ...]:
        """The attacks of the search; without one, this attack."""
        if not self.search:
            return (self,)
        losses: tuple[Literal["margin", "ce"], ...] = ("margin", "ce")
        return tuple(
            replace(self, loss=loss, step_size=share * self.step_size, search=False)
            for loss in losses
            for share in SEARCHED_SIZES[self.norm]
        )

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return the nearest images in the ball; see :meth:`GradientAttack.follow_gradients`."""
        del seed
        # A misclassified image has distance 0, which no other image improves.
        distance = tf.where(misclassified(y, predict(x)), 0.0, np.float32(np.inf))
        start = Nearest(x, broadcast_to_images(distance, x), tf.fill([tf.shape(x)[0]], UNUSED))
        nearest = start
        for attack in self.runs:
            nearest = nearest.updated(attack._approach(predict, x, y, start))
        images = tf.where(nearest.distance <= self.epsilon, nearest.images, x)
        return Perturbed(tf.stop_gradient(images), nearest.gradients)

    def _approach(self, predict: Predict, x: Images, y: Labels, start: Nearest) -> Nearest:
        """Return the nearest misclassified images that one run meets (Algorithm 1)."""
        share = np.cos(np.pi * np.arange(self.steps + 1) / max(1, self.steps)) / 2 + 0.5
        gammas = (LAST_GAMMA + (self.gamma - LAST_GAMMA) * share).astype(np.float32)
        sizes = (self.step_size * (LAST_STEP + (1 - LAST_STEP) * share)).astype(np.float32)
        limit = lengths(tf.maximum(x, 1.0 - x), self.norm)  # no change in [0, 1] is longer

        def update(
            i: tf.Tensor, x_now: Images, evaluation: Evaluation, radius: tf.Tensor, best: Nearest
        ) -> tuple[Images, tf.Tensor, Nearest]:
            now = _evaluated(x, x_now, y, evaluation.logits, self.norm)
            best = best.updated(now._replace(gradients=evaluation.found))
            boundary = lengths(x_now - x, self.norm) + self._distance_to_plane(y, evaluation)
            gamma = tf.gather(gammas, i)
            grown = tf.where(tf.math.is_inf(best.distance), boundary, radius) * (1 + gamma)
            shrunk = tf.minimum(radius * (1 - gamma), best.distance)
            radius = tf.minimum(tf.where(tf.math.is_inf(now.distance), grown, shrunk), limit)
            step = tf.gather(sizes, i) * steepest_step(evaluation.gradient, self.norm)
            return project(x_now + step, x, self.norm, radius), radius, best

        loss = functools.partial(UNTARGETED[self.loss], y)
        last, _, best = ascent_loop(
            predict, x, loss, update, start.distance, start, steps=self.steps, rescue=True
        )
        return best.updated(_evaluated(x, last, y, predict(last), self.norm))

    def _distance_to_plane(self, y: Labels, evaluation: Evaluation) -> tf.Tensor:
        """Return the distance, [batch, 1, ...], at which the linearised margin is 0.

        The dual norm of a gradient is its L1 norm for Linf, its L2 norm for L2. With two classes,
        the gradient of the cross-entropy is that of the margin times ``1 - p``, where p is the
        probability of the label; with more classes, this is taken to be so. The scale of a rescued
        gradient is unknown, and the distance infinite.
        """
        gradient = evaluation.gradient
        gaps = tf.abs(margin(y, evaluation.logits))
        if self.loss == "ce":
            gaps *= -tf.math.expm1(-evaluation.losses)
            gaps = tf.where(evaluation.found == FOUND, gaps, np.float32(np.inf))
        axes = list(range(1, len(gradient.shape)))
        # Squares of entries of at most 1 do not overflow.
        largest = tf.reduce_max(tf.abs(gradient), axes, keepdims=True)
        scaled = tf.math.divide_no_nan(gradient, largest)
        is_linf = self.norm == "linf"
        dual = tf.reduce_sum(tf.abs(scaled), axes, keepdims=True) if is_linf else lengths(scaled)
        gaps = tf.math.divide_no_nan(broadcast_to_images(gaps, gradient), dual)
        return tf.math.divide_no_nan(gaps, largest)


def _evaluated(x: Images, x_now: Images, y: Labels, logits: Logits, norm: Norm) -> Nearest:
    """Return iterates as nearest images, at an infinite distance where they break nothing."""
    logits = tf.cast(logits, tf.float32)
    # On another device, rounding must not move the image back across the boundary.
    least = _ROUNDING * tf.abs(tf.gather(logits, y, batch_dims=1))
    wrong = misclassified(y, logits) & (margin(y, logits) >= least)
    distance = tf.where(broadcast_to_images(wrong, x), lengths(x_now - x, norm), np.float32(np.inf))
    return Nearest(x_now, distance, tf.fill([tf.shape(x)[0]], UNUSED))
