"""The interface of attacks and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra_tf.attacks.gradients import UNUSED, Perturbed
from hydra_tf.attacks.inference import Predict, inference
from hydra_tf.attacks.losses import Loss
from hydra_tf.checks.batches import check_use
from hydra_tf.checks.labels import sparse_labels
from hydra_tf.core.graphs import Graphs
from hydra_tf.core.lazy import tf
from hydra_tf.core.pixels import clipped_pixels
from hydra_tf.core.randomness import stateless_seed
from hydra_tf.core.registry import Registry
from hydra_tf.core.types import Ball, Classifier, Images, Labels, Norm, Seed


@dataclass(frozen=True)
class Attack:
    """An attack in a norm ball on a model that outputs logits.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].

    Example:
        >>> @dataclass(frozen=True)
        ... class Darken(Attack):
        ...     uses_gradients = False
        ...
        ...     def perturb(self, predict, x, y, seed):
        ...         return tf.maximum(x - self.epsilon, 0.0)
        >>> net = lambda x, training: x
        >>> Darken(epsilon=0.25)(net, [[0.5, 0.125]], [0]).numpy().tolist()
        [[0.25, 0.0]]
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255
    uses_gradients: ClassVar[bool] = True  # false if it only looks at logits
    finds_smallest: ClassVar[bool] = False  # true if epsilon does not change what it looks for

    def __post_init__(self) -> None:
        Ball(self.norm, self.epsilon)  # validates norm and epsilon

    def perturb(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Images:
        """Return adversarial images; a pure function, for use in a graph.

        Args:
            predict: maps images to logits in inference mode.
            x: [batch, ...] float32 images in [0, 1].
            y: [batch] integer labels.
            seed: int32 tensor of shape [2].
        """
        raise NotImplementedError

    def __call__(self, model: Classifier, x: Any, y: Any, seed: int = 0) -> Images:
        """Attack a model on one batch.

        The graph is traced once per model and traced again if a layer of the model was changed
        in place.

        Args:
            model: a Keras model (or :class:`hydra_tf.RobustModel`) that outputs logits.
            x: [batch, ...] images in [0, 1]; pixels outside by rounding are clipped.
            y: [batch] integer labels, or [batch, classes] one-hot.
            seed: seed of all random numbers of the attack.

        Returns:
            [batch, ...] float32 adversarial images in the ball and in [0, 1].

        Raises:
            ValueError: for a model that outputs probabilities, images outside [0, 1] or of
                the wrong shape, labels out of range or not one per image.
        """
        return run_attack(self, model, x, y, seed).images


@dataclass(frozen=True)
class GradientAttack(Attack):
    """An attack that follows gradients, and tells for which samples it found some.

    Example:
        >>> from hydra_tf.attacks.gradients import gradients_found
        >>> @dataclass(frozen=True)
        ... class OneStep(GradientAttack):
        ...     def follow_gradients(self, predict, x, y, seed):
        ...         with tf.GradientTape() as tape:
        ...             tape.watch(x)
        ...             correct = tf.gather(predict(x), y, batch_dims=1)
        ...         gradient = tape.gradient(correct, x)
        ...         images = tf.clip_by_value(x - self.epsilon * tf.sign(gradient), 0, 1)
        ...         return Perturbed(images, gradients_found(gradient))
        >>> net = lambda x, training: x
        >>> OneStep(epsilon=0.25)(net, [[0.5, 0.125]], [0]).numpy().tolist()
        [[0.25, 0.125]]
    """

    def perturb(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Images:
        """Return adversarial images; see :meth:`Attack.perturb`."""
        return self.follow_gradients(predict, x, y, seed).images

    def follow_gradients(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
        """Return adversarial images and which gradients were found; a pure function.

        Arguments as in :meth:`Attack.perturb`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LossAttack(GradientAttack):
    """An attack that climbs any loss of the logits, and so can make the images of an objective.

    Class attributes:
        loss_parameters: names of the parameters that choose the loss. They need their default
            values if an objective gives the loss.

    Example:
        >>> x, seed = tf.constant([[0.5, 0.5]]), tf.constant([0, 0])
        >>> attack = build("pgd:epsilon=0.25,steps=4")
        >>> attack.climb(lambda x: x, x, lambda z: z[:, 0] - z[:, 1], lambda _: x, seed).numpy()
        array([[0.75, 0.25]], dtype=float32)
    """

    loss_parameters: ClassVar[tuple[str, ...]] = ()

    def climb(
        self,
        predict: Predict,
        x: Images,
        loss: Loss,
        start: Start,
        seed: Seed,
        epsilon_share: float | tf.Tensor = 1.0,
    ) -> Images:
        """Return images in the ball with a large loss; a pure function, for use in a graph.

        The random numbers of a sample may depend on the seed and on its position in the batch
        only (:mod:`hydra_tf.core.randomness`), and the result not on the other samples, so that
        replicas and microbatches give the images of the whole batch.

        Args:
            predict: maps images to logits in inference mode.
            x: [batch, ...] float32 images in [0, 1], the centres of the balls.
            loss: maps logits to the loss of each sample, [batch], which is maximised.
            start: maps a seed to the first images, [batch, ...], in the ball.
            seed: int32 tensor of shape [2].
            epsilon_share: share of epsilon, and of the step size, that is used; in [0, 1].
        """
        raise NotImplementedError


def perturbed(attack: Attack, predict: Predict, x: Images, y: Labels, seed: Seed) -> Perturbed:
    """Return adversarial images and, as far as it is known, which gradients were found.

    Args:
        attack: an attack.
        predict: maps images to logits in inference mode.
        x: [batch, ...] float32 images in [0, 1].
        y: [batch] integer labels.
        seed: int32 tensor of shape [2].
    """
    # A subclass may override perturb alone.
    if isinstance(attack, GradientAttack) and type(attack).perturb is GradientAttack.perturb:
        return attack.follow_gradients(predict, x, y, seed)
    images = attack.perturb(predict, x, y, seed)
    return Perturbed(images, None if attack.uses_gradients else tf.fill([tf.shape(x)[0]], UNUSED))


def run_attack(
    attack: Callable[..., Images], model: Classifier, x: Any, y: Any, seed: int | Seed = 0
) -> Perturbed:
    """Attack a model on one batch, and tell which gradients were found.

    Arguments and errors as in :meth:`Attack.__call__`.

    Args:
        attack: an attack, or another callable ``(model, x, y, seed) -> images``, of whose gradients
            nothing is known.
        model: a Keras model that outputs logits.
        x: [batch, ...] images in [0, 1].
        y: [batch] integer labels, or [batch, classes] one-hot.
        seed: seed of all random numbers of the attack.

    Example:
        >>> net = lambda x, training: tf.round(3 * x)  # without a gradient
        >>> run_attack(build("fgsm"), net, [[0.1, 0.9]], [1]).gradients.numpy().tolist()
        [1]
    """
    if not isinstance(attack, Attack):
        return Perturbed(attack(model, x, y, seed=seed), None)
    if not tf.executing_eagerly():
        x, y = tf.cast(x, tf.float32), sparse_labels(y)
        return perturbed(attack, inference(model), x, y, stateless_seed(seed))
    check_use(model, x, y)
    x, y = clipped_pixels(x), sparse_labels(y)
    return _compiled(attack, model)(x, y, stateless_seed(seed))


_graphs = Graphs()


def _compiled(attack: Attack, model: Classifier) -> Callable[[Images, Labels, Seed], Perturbed]:
    """Return the graph of the attack on the model, traced at the first call."""

    def trace(model: Callable[[], Classifier]) -> Callable[[Images, Labels, Seed], Perturbed]:
        @tf.function(reduce_retracing=True)
        def run(x: Images, y: Labels, seed: Seed) -> Perturbed:
            return perturbed(attack, inference(model()), x, y, seed)

        return run

    return _graphs.get(model, attack, trace)


def smallest_change_attack(spec: Any, **defaults: Any) -> Attack:
    """Return an attack that looks for the smallest change of each sample.

    Args:
        spec: spec of an attack, or an attack.
        **defaults: parameters that the spec leaves out, such as `norm`.

    Raises:
        ValueError: for an attack that looks for any change in its ball.

    Example:
        >>> smallest_change_attack("fmn:norm=l2").norm
        'l2'
    """
    attack = build(spec, **defaults)
    if not getattr(attack, "finds_smallest", False):
        raise ValueError(
            f'The attack "{attack_name(attack)}" does not look for the smallest change of an '
            'image; measure distances with one that does, such as "fmn".'
        )
    return attack


def attack_name(attack: Any) -> str:
    """Return the registered name of an attack, or the name of another callable.

    Example:
        >>> attack_name(build("pgd:steps=5")), attack_name(print)
        ('pgd', 'print')
    """
    try:
        return str(ATTACKS.config(attack)["name"])
    except TypeError:
        return str(getattr(attack, "__name__", type(attack).__name__))


# Maps a seed to the first images of an attack.
Start = Callable[[Seed], Images]
ATTACKS: Registry[Attack] = Registry("attack", "hydra_tf.attacks")
build = ATTACKS.build
