"""Fast adaptive boundary attack, targeted (Croce and Hein, ICML 2020, arXiv 1907.02044)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.attacks.ascent import check_steps, climb
from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import likely_targets, misclassified, targeted_margin
from hydra_tf.attacks.norms import lengths, project, wide
from hydra_tf.attacks.survivors import attack_again
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Norm

OVERSHOOT = 1.05  # eta: how far beyond the linearised boundary a step goes
BACKWARDS = 0.9  # beta: what is kept of the change once the sample is broken
BIAS = 0.1  # alpha_max: the largest weight of the step that starts at the image itself
_FAR = 1e30  # beyond what any pixel has room for


@ATTACKS.register()
@dataclass(frozen=True)
class FAB(Attack):
    """Targeted FAB: the nearest boundary to each likely class, whatever the logits' scale.

    It looks for the smallest change that breaks a sample and counts it when it lies in the
    ball. A sample that the model gets wrong, or that holds, comes back as it is; one that is
    broken has the smallest change towards the first class that breaks it. Nothing is random.

    The paper's last search for the boundary on the way back to the image is left out: an
    image just beyond the boundary is one that another device's rounding may mend.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: steps towards the boundary of each class.
        targets: number of likely wrong classes to try, at most all.

    Example:
        >>> FAB(epsilon=0.1, targets=3).targets
        3
    """

    steps: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, None)
        if self.targets < 1:
            raise ValueError(f"targets must be at least 1, not {self.targets}.")

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the broken images within the ball; see :meth:`Attack.perturb`.

        Raises:
            ValueError: for a model of fewer than two classes.
        """
        aims = likely_targets(y, predict(x), self.targets)
        labels = tf.concat([y[:, None], aims], axis=1)

        def attempt(i: Any, x: Any, labels: Any, _: Any) -> tuple[Any, Any]:
            y, aim = labels[:, 0], tf.gather(labels, 1 + i, axis=1)
            found = project(self._nearest(predict, x, y, aim), x, self.norm, self.epsilon)
            broken = misclassified(y, predict(found))
            return tf.where(wide(broken, x), found, x), broken

        return attack_again(attempt, x, labels, seed, aims.shape[1])[0]

    def _nearest(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, aim: tf.Tensor) -> tf.Tensor:
        """The nearest misclassified image met (Algorithm 1); `x` itself without any."""

        def move(_: Any, x_now: Any, seen: Any, best: Any, distance: Any) -> tuple[Any, ...]:
            gradient, _, values = seen
            x_next = _towards_boundary(x, x_now, gradient, values, self.norm)
            wrong = misclassified(y, predict(x_next))
            length = tf.reshape(lengths(x_next - x, self.norm), [-1])
            nearer = wrong & (length < distance)
            best = tf.where(wide(nearer, x), x_next, best)
            back = x + BACKWARDS * (x_next - x)
            x_next = tf.where(wide(wrong, x), back, x_next)
            return x_next, best, tf.where(nearer, length, distance)

        # What is misclassified already cannot be improved on.
        never = tf.where(misclassified(y, predict(x)), 0.0, np.float32(np.inf))
        loss = functools.partial(targeted_margin, y, aim)
        return climb(predict, x, loss, move, x, never, steps=self.steps)[1]


def _towards_boundary(
    x: tf.Tensor, x_now: tf.Tensor, gradient: tf.Tensor, values: tf.Tensor, norm: Norm
) -> tf.Tensor:
    """One step (section 2.3): from here and from the image itself to the linearised boundary."""
    axes = list(range(1, len(x.shape)))
    at_image = values + tf.reduce_sum(gradient * (x - x_now), axes)
    both = tf.concat([x_now, x], 0)
    slopes = tf.concat([gradient, gradient], 0)
    steps = to_plane(both, slopes, -tf.concat([values, at_image], 0), norm)
    here, image = tf.split(both + OVERSHOOT * steps, 2)
    near, far = tf.split(lengths(steps, norm), 2)
    bias = tf.minimum(tf.math.divide_no_nan(near, near + far), BIAS)
    return tf.clip_by_value((1.0 - bias) * here + bias * image, 0.0, 1.0)


def to_plane(x: tf.Tensor, slope: tf.Tensor, rise: tf.Tensor, norm: Norm) -> tf.Tensor:
    """Return the smallest changes of `x` within [0, 1] by which linear functions rise so much.

    Pixel j moves by ``min(t * s_j, room_j)``, its room being what [0, 1] leaves and s_j = 1
    in the Linf norm, ``|slope_j|`` in the L2 norm. The rise is then concave and piecewise
    linear in t, so Newton's method from t = 0 never overshoots and ends at the exact t as
    soon as no further pixel runs out of room. Where all pixels together cannot rise so much
    they go as far as they can.

    Args:
        x: [batch, ...] images in [0, 1].
        slope: [batch, ...] gradients of the functions.
        rise: [batch] how much the functions are to rise, or fall where negative.
        norm: which changes are small, ``"linf"`` or ``"l2"``.

    Example:
        >>> x, slope = tf.constant([[0.5, 0.9]]), tf.constant([[1.0, 2.0]])
        >>> to_plane(x, slope, tf.constant([0.4]), "linf").numpy().round(4).tolist()
        [[0.2, 0.1]]
    """
    axes = list(range(1, len(x.shape)))
    # Only ratios count; slopes of 1 at most cannot overflow when squared.
    unit = tf.reduce_max(tf.abs(slope), axes)
    slope = tf.math.divide_no_nan(slope, wide(unit, x)) * wide(tf.sign(rise), x)
    rise = tf.math.divide_no_nan(tf.abs(rise), unit)
    room = tf.where(slope > 0, 1.0 - x, x)
    steep = tf.abs(slope)

    def wish(t: Any) -> Any:
        # No factor of ones in the Linf norm: TensorFlow's optimizer crashes on one when the
        # batch is known to be empty.
        return wide(t, x) if norm == "linf" else wide(t, x) * steep

    def body(t: Any, full: Any, _: Any) -> tuple[Any, Any, Any]:
        done = tf.reduce_sum(tf.where(full, steep * room, 0.0), axes)
        rates = steep if norm == "linf" else tf.square(steep)
        rate = tf.reduce_sum(tf.where(full, 0.0, rates), axes)
        reached = tf.where(rate > 0, (rise - done) / rate, t)
        # Not further: an infinite t times a slope of 0 is no number.
        t = tf.maximum(t, tf.minimum(reached, _FAR))
        fuller = full | (wish(t) >= room)
        return t, fuller, tf.reduce_any(fuller & ~full)

    start = tf.zeros_like(rise), tf.zeros_like(x, tf.bool), tf.constant(True)
    t, _, _ = tf.while_loop(lambda *state: state[2], body, start)
    return tf.sign(slope) * tf.minimum(wish(t), room)
