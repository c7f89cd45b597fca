"""CleverHans's own PGD behind this library's interface: the independent judge."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import numpy as np

from hydra_tf.attacks.ascent import check_steps, default_step_size
from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.core.lazy import tf


@ATTACKS.register()
@dataclass(frozen=True)
class CleverHansPGD(Attack):
    """CleverHans 4.0 `projected_gradient_descent`: last iterate, no restarts.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps.
        step_size: length of a step, at most epsilon; ``2.5 * epsilon / steps`` when left out.
        random_start: start uniformly in the ball. CleverHans draws it from TensorFlow's
            global generator, so it follows `tf.random.set_seed` and not the call's seed.

    Raises:
        ImportError: when CleverHans is not installed.

    Example:
        >>> CleverHansPGD(epsilon=0.1, steps=10).steps
        10
    """

    steps: int = 50
    step_size: float | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Known without importing it: a command line ends here, not in the middle of its work.
        if importlib.util.find_spec("cleverhans") is None:
            raise ImportError(
                "The attack cleverhans_pgd needs CleverHans, which is not installed; run "
                'pip install "hydra_tf[cleverhans]", in a checkout pip install ".[cleverhans]".'
            )
        check_steps(self.steps, self.step_size)
        if self.step_size is not None and self.step_size > self.epsilon:
            raise ValueError(
                f"CleverHans takes no step_size ({self.step_size}) above epsilon ({self.epsilon})."
            )

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return CleverHans's images; see :meth:`Attack.perturb`."""
        if self.epsilon == 0:
            return x
        load = tf.autograph.experimental.do_not_convert(importlib.import_module)  # else it warns
        judge = load("cleverhans.tf2.attacks.projected_gradient_descent")
        step_size = default_step_size(self.step_size, self.epsilon, self.steps)
        return judge.projected_gradient_descent(
            predict,
            x,
            self.epsilon,
            min(step_size, self.epsilon),
            self.steps,
            {"linf": np.inf, "l2": 2}[self.norm],
            clip_min=0.0,
            clip_max=1.0,
            y=y,
            rand_init=self.random_start,
        )
