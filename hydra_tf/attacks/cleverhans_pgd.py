"""CleverHans's PGD as an attack of this library, an independent reference."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import numpy as np

from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.step_sizes import check_steps, step_size_or_default
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Seed


@ATTACKS.register()
@dataclass(frozen=True)
class CleverHansPGD(Attack):
    """CleverHans 4.0 `projected_gradient_descent`: last iterate, no restarts.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: ascent steps.
        step_size: length of a step, at most epsilon; ``2.5 * epsilon / steps`` when left out.
        random_start: start uniformly in the ball. CleverHans draws the start from TensorFlow's
            global generator: `tf.random.set_seed` seeds it, the seed of the call is ignored.

    Raises:
        ImportError: if CleverHans is not installed.

    Example:
        >>> CleverHansPGD(epsilon=0.1, steps=10).steps
        10
    """

    steps: int = 50
    step_size: float | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Checked here, without an import, so that a command fails before it starts its work.
        if importlib.util.find_spec("cleverhans") is None:
            raise ImportError(
                "The attack cleverhans_pgd needs CleverHans, which is not installed; run "
                'pip install "hydra_tf[cleverhans]", in a checkout pip install ".[cleverhans]".'
            )
        check_steps(self.steps, self.step_size)
        if self.step_size is not None and self.step_size > self.epsilon:
            raise ValueError(
                f"CleverHans needs a step_size of at most epsilon ({self.epsilon:g}), not "
                f"{self.step_size:g}."
            )

    def perturb(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Images:
        """Return CleverHans's images; see :meth:`Attack.perturb`."""
        if self.epsilon == 0:
            return x
        # AutoGraph warns about importlib.
        load = tf.autograph.experimental.do_not_convert(importlib.import_module)
        module = load("cleverhans.tf2.attacks.projected_gradient_descent")
        step_size = step_size_or_default(self.step_size, self.epsilon, self.steps)

        def images() -> Images:
            return module.projected_gradient_descent(
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

        # TensorFlow's convolutions have no gradient for an empty batch.
        return tf.cond(tf.shape(x)[0] > 0, images, lambda: x)
