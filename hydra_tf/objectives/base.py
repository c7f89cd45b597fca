"""The base classes of robust objectives, and the functions that objectives share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.base import ATTACKS, Attack, LossAttack, attack_name
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss
from hydra_tf.attacks.norms import random_start
from hydra_tf.attacks.step_sizes import check_steps, step_size_or_default
from hydra_tf.core.lazy import tf
from hydra_tf.core.registry import Registry
from hydra_tf.core.schedules import RAMPS
from hydra_tf.core.types import (
    Ball,
    Classifier,
    Images,
    Labels,
    Logits,
    LossTerms,
    Norm,
    Seed,
    StepContext,
)
from hydra_tf.objectives.validation import ValidationSpec


@dataclass(frozen=True)
class Objective:
    """The loss of a model on one batch: a pure function that can be traced in a graph.

    Example:
        >>> @dataclass(frozen=True)
        ... class Margin(Objective):
        ...     def __call__(self, model, x, y, context):
        ...         logits = model(x, training=True)
        ...         correct = tf.gather(logits, y, batch_dims=1)
        ...         return LossTerms(tf.reduce_mean(tf.reduce_sum(logits, 1) - 2 * correct), logits)
        >>> net = lambda x, training: x
        >>> float(Margin()(net, tf.constant([[0.75, 0.25]]), [0], None).loss)
        -0.5
    """

    def __call__(self, model: Classifier, x: Images, y: Labels, context: StepContext) -> LossTerms:
        """Return the loss to minimise.

        Args:
            model: Keras model ``(x, training) -> logits``.
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] int32 labels.
            context: seed and progress of the step.
        """
        raise NotImplementedError

    def validation_attack(self) -> ValidationSpec:
        """Return what ``val_robust_accuracy`` counts, or None for no such metric.

        Returns:
            The spec of an attack, a callable ``(model, x, y, seed) -> images``, or a
            :class:`hydra_tf.objectives.validation.ValidationMeasure`.
        """
        return None

    def certificate(self) -> dict[str, Any] | None:
        """Return how networks trained with this objective are certified, or None.

        Returns:
            ``measure``, the name in reports (``"vra_s"``, ``"vra_m"`` or ``"vra_t"``);
            ``method``, ``"smoothing"`` or the name of a bound; and its ``sigma`` or
            ``epsilon``.
        """
        return None


@dataclass(frozen=True)
class Replayed(Objective):
    """An objective that takes several steps on each batch and perturbs the images in between.

    The backward pass that updates the weights also updates the perturbation, which is carried
    over from batch to batch.

    Args:
        replays: number of optimizer steps on each batch.
    """

    replays: int = 1

    def __call__(
        self,
        model: Classifier,
        x: Images,
        y: Labels,
        context: StepContext,
        perturbed: Images | None = None,
    ) -> LossTerms:
        """Return the loss to minimise; see :meth:`Objective.__call__`.

        Args:
            model: Keras model ``(x, training) -> logits``.
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] int32 labels.
            context: seed and progress of the step.
            perturbed: [batch, ...] images to train on; `x` when left out.
        """
        raise NotImplementedError

    def start_batch(self, x: Images, delta: tf.Tensor) -> Images:
        """Return the first perturbed images of a batch.

        Args:
            x: [batch, ...] images.
            delta: [batch, ...] perturbation at the end of the previous batch.
        """
        raise NotImplementedError

    def update_perturbed(self, x: Images, perturbed: Images, gradient: tf.Tensor) -> Images:
        """Return the perturbed images for the next step.

        Args:
            x: [batch, ...] images.
            perturbed: [batch, ...] perturbed images of the current step.
            gradient: [batch, ...] gradient of the loss with respect to `perturbed`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Adversarial(Objective):
    """An objective whose adversarial images come from an attack in a norm ball.

    By default the attack is projected steepest ascent, which returns the last iterate. Any
    registered attack that climbs a loss may take its place: the objective gives the ball, the start
    and the loss, and the attack decides how to climb.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        steps: number of ascent steps of the attack.
        step_size: length of an ascent step; ``2.5 * epsilon / steps`` when left out.
        start: first images of the attack: ``"uniform"`` draws from the ball, ``"normal"`` is
            x + 0.001 * N(0, I), ``"stripes"`` adds vertical stripes of random sign, which also
            reach the threshold units of sparse networks that have no gradient near x,
            ``"zero"`` is x.
        ramp: share of the phase, in [0, 1], over which epsilon grows linearly from 0.
        label_smoothing: share of the label that is spread over all classes in the cross-entropy
            of the loss, in [0, 1); the attack does not use it.
        attack: the registered attack that makes the images, a spec or an instance, such as
            ``"cleverhans_pgd"`` or, within a spec, ``"attack=(apgd:steps=5)"``. Where it leaves
            them out, `steps` and `step_size` are those of the objective. The validation attack
            stays PGD.

    Raises:
        ValueError: for a parameter out of range, an attack that does not climb a loss, or an
            attack with another ball, start or loss.
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255
    steps: int = 10
    step_size: float | None = None
    start: Literal["uniform", "normal", "stripes", "zero"] = "uniform"
    ramp: float = 0.0
    label_smoothing: float = 0.0
    attack: Attack | str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        Ball(self.norm, self.epsilon)  # validates norm and epsilon
        check_label_smoothing(self.label_smoothing)
        check_ramp(self.ramp)
        check_steps(self.steps, self.step_size)
        if self.attack is not None:
            object.__setattr__(self, "attack", inner_attack(self))

    def validation_attack(self) -> dict[str, Any] | None:
        """Return PGD with twice the steps in the same ball, from a uniform start."""
        return {"name": "pgd", "norm": self.norm, "epsilon": self.epsilon, "steps": 2 * self.steps}

    def adversarial_images(
        self, predict: Predict, x: Images, loss: Loss, context: StepContext
    ) -> Images:
        """Return adversarial images; no gradient flows through them.

        Args:
            predict: maps images to logits in inference mode.
            x: [batch, ...] images.
            loss: maps logits to the loss of each sample, [batch], which is maximised.
            context: seed and progress of the step.
        """
        epsilon_share = ramp_value(context, self.ramp)
        epsilon = epsilon_share * self.epsilon

        def start(seed: Seed) -> Images:
            return random_start(x, self.norm, epsilon, seed, self.start)

        if isinstance(self.attack, LossAttack):
            images = self.attack.climb(predict, x, loss, start, context.seed, epsilon_share)
            return tf.stop_gradient(images)
        return ascend(
            predict,
            x,
            start(context.seed),
            loss,
            norm=self.norm,
            epsilon=epsilon,
            step_size=epsilon_share
            * step_size_or_default(self.step_size, self.epsilon, self.steps),
            steps=self.steps,
        )


def inner_attack(objective: Adversarial) -> LossAttack:
    """Return the attack of an objective, in the objective's ball.

    Args:
        objective: an objective with a spec or an instance of an attack.

    Raises:
        ValueError: for an attack that does not climb a loss, or one with another ball, start or
            loss than the objective.

    Example:
        >>> from hydra_tf.objectives.pgd import PGDTraining
        >>> PGDTraining(epsilon=0.1, attack="apgd:steps=5").attack.epsilon
        0.1
    """
    shared = {"norm": objective.norm, "epsilon": objective.epsilon, "start": objective.start}
    shared["random_start"] = objective.start != "zero"
    own = {"steps": objective.steps, "step_size": objective.step_size}
    attack = ATTACKS.build(objective.attack, **shared, **own)
    name = attack_name(attack)
    if not isinstance(attack, LossAttack):
        raise ValueError(
            f'The attack "{name}" does not climb a loss, so that an objective cannot use it; use '
            f"one of: {', '.join(ATTACKS.names(LossAttack))}."
        )
    if objective.step_size is not None and not hasattr(attack, "step_size"):
        raise ValueError(f'The attack "{name}" has no step_size; leave out that of the objective.')
    if objective.step_size not in (None, getattr(attack, "step_size", None)):
        raise ValueError(
            f'The attack "{name}" has a step_size of {getattr(attack, "step_size", None)}, and the '
            f"objective one of {objective.step_size}; leave out one of them."
        )
    defaults = {field.name: field.default for field in dataclasses.fields(attack)}
    expected = {**shared, **{key: defaults[key] for key in attack.loss_parameters}}
    for key, value in expected.items():
        if getattr(attack, key, value) != value:
            raise ValueError(
                f"The attack within an objective has the ball, the start and the loss of the "
                f'objective, but {key} of "{name}" is {getattr(attack, key)!r} instead of '
                f"{value!r}; leave it out of the attack."
            )
    return attack


def check_ramp(ramp: float) -> None:
    """Check that a ramp is a share of the phase.

    Raises:
        ValueError: for a number outside [0, 1].

    Example:
        >>> check_ramp(0.5)
    """
    if not 0 <= ramp <= 1:
        raise ValueError(f"ramp is a share of the phase in [0, 1], not {ramp}.")


def ramp_value(context: StepContext, ramp: float, shape: str = "linear") -> tf.Tensor:
    """Return the share of the full epsilon at a step, a float32 scalar in [0, 1].

    Args:
        context: seed and progress of the step.
        ramp: share of the phase over which epsilon grows from 0; with 0 it is constant.
        shape: name of the growth in :data:`hydra_tf.core.schedules.RAMPS`.

    Example:
        >>> context = StepContext(seed=tf.constant([0, 0]), progress=tf.constant(0.25))
        >>> float(ramp_value(context, ramp=0.5))
        0.5
    """
    if ramp == 0:
        return tf.constant(1.0)
    return RAMPS[shape](tf.minimum(1.0, context.progress / ramp))


def check_label_smoothing(label_smoothing: float) -> None:
    """Check a share of label smoothing.

    Raises:
        ValueError: for a number outside [0, 1).

    Example:
        >>> check_label_smoothing(0.1)
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is a share in [0, 1), not {label_smoothing}.")


def check_beta(beta: float) -> None:
    """Check the weight of a loss term.

    Raises:
        ValueError: for a negative or infinite weight.

    Example:
        >>> check_beta(6.0)
    """
    if not 0 <= beta < float("inf"):
        raise ValueError(f"beta must be a finite number of at least 0, not {beta}.")


def kl_divergence(target: Logits, logits: Logits) -> tf.Tensor:
    """Return KL(softmax(target) || softmax(logits)) of each sample in nats, [batch].

    Example:
        >>> kl_divergence([[0.0, 0.0]], [[0.0, 0.0]]).numpy().tolist()
        [0.0]
    """
    log_p = tf.nn.log_softmax(tf.cast(target, tf.float32))
    log_q = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


OBJECTIVES: Registry[Objective] = Registry("objective", "hydra_tf.objectives")
build = OBJECTIVES.build
