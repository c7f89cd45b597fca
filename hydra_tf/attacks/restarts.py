"""Restarts and ensembles: each further attack sees only samples that are not yet broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import Loss
from hydra_tf.attacks.norms import broadcast_to_images, choose_images
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Seed


class Attempt(NamedTuple):
    """The result of one of several attacks on the same samples.

    Args:
        images: [batch, ...] adversarial images.
        broken: [batch] booleans, true where they are misclassified.
        gradients: [batch] int32, the best gradients that were found; see
            :class:`hydra_tf.attacks.gradients.Perturbed`.
    """

    images: Images
    broken: tf.Tensor
    gradients: tf.Tensor


def attack_remaining(
    attack: Callable[[Images, Labels], Attempt], x: Images, y: Labels, before: Attempt
) -> Attempt:
    """Attack the samples that are not yet broken.

    A sample that the attack does not break keeps its image.

    Args:
        attack: maps images and labels to an attempt.
        x: [batch, ...] images.
        y: [batch] integer labels, or [batch, k] with further values per sample.
        before: the result of earlier attacks.

    Returns:
        The result of all attacks.

    Example:
        >>> x, zeros = tf.constant([[0.1], [0.2], [0.3]]), tf.zeros(3, tf.int32)
        >>> brighten = lambda x, y: Attempt(x + 0.5, x[:, 0] > 0.25, y)
        >>> before = Attempt(x, tf.constant([True, False, False]), zeros)
        >>> images, broken, _ = attack_remaining(brighten, x, zeros, before)
        >>> images.numpy().round(1).tolist(), broken.numpy().tolist()
        ([[0.1], [0.2], [0.8]], [True, False, True])
    """
    # Without any sample, some convolutions of TensorFlow on CPUs raise an error.
    return tf.cond(
        tf.reduce_all(before.broken),
        lambda: before,
        lambda: _attack_some(attack, x, y, before, tf.where(~before.broken)),
    )


def _attack_some(
    attack: Callable[[Images, Labels], Attempt],
    x: Images,
    y: Labels,
    before: Attempt,
    remaining: tf.Tensor,
) -> Attempt:
    """Attack the samples at the positions `remaining`, [count, 1], of which there are some."""
    images, _, gradients = (tf.gather(values, remaining[:, 0]) for values in before)
    now = attack(tf.gather(x, remaining[:, 0]), tf.gather(y, remaining[:, 0]))
    after = Attempt(
        choose_images(now.broken, now.images, images),
        now.broken,
        tf.maximum(now.gradients, gradients),
    )
    return Attempt(
        *(
            tf.tensor_scatter_nd_update(old, remaining, new)
            for old, new in zip(before, after, strict=True)
        )
    )


def attack_repeatedly(
    attack: Callable[[tf.Tensor, Images, Labels, Seed], Attempt],
    x: Images,
    y: Labels,
    seed: Seed,
    attempts: int,
) -> Attempt:
    """Attack all samples once, then again those that are not yet broken.

    Where at most half of the samples are left, several attempts run as one batch, which is not
    larger than the first: a small batch takes more time for each sample.

    Args:
        attack: maps the numbers of the attempts, [batch] int32, images, labels and a seed to the
            attempt.
        x: [batch, ...] images.
        y: [batch] integer labels, or [batch, k] with further values per sample.
        seed: int32 tensor of shape [2], the seed of the first attempt.
        attempts: number of attempts, the first included.

    Returns:
        The result of all attempts; no gradient flows through the images. A sample has the image
        of the first attempt that breaks it, or that of the very first if none does.
    """
    size = tf.shape(x)[0]
    result = attack(tf.zeros([size], tf.int32), x, y, seed)

    def body(i: tf.Tensor, result: Attempt) -> tuple[tf.Tensor, Attempt]:
        remaining = tf.where(~result.broken)
        count = tf.shape(remaining)[0]
        copies = tf.minimum(attempts - i, size // count)
        numbers = i + tf.repeat(tf.range(copies), count)
        attempt_seed = tf.random.fold_in(seed, i)

        def attack_copies(x: Images, y: Labels) -> Attempt:
            attempt = attack(numbers, _tile(x, copies), _tile(y, copies), attempt_seed)
            return _first_success(attempt, copies)

        return i + copies, _attack_some(attack_copies, x, y, result, remaining)

    def unfinished(i: tf.Tensor, result: Attempt) -> tf.Tensor:
        return (i < attempts) & ~tf.reduce_all(result.broken)

    if attempts > 1:
        _, result = tf.while_loop(unfinished, body, (tf.constant(1), result))
    return result._replace(images=tf.stop_gradient(result.images))


def _tile(values: tf.Tensor, copies: tf.Tensor) -> tf.Tensor:
    """Return a batch `copies` times, one copy after the other."""
    return tf.tile(values, tf.concat([[copies], tf.ones_like(tf.shape(values)[1:])], axis=0))


def _first_success(attempt: Attempt, copies: tf.Tensor) -> Attempt:
    """Return for each sample the first of its copies that is broken, or the first copy.

    Args:
        attempt: the result for `copies` copies of a batch, one after the other.
        copies: number of copies.
    """
    count = tf.shape(attempt.broken)[0] // copies
    broken = tf.reshape(attempt.broken, [copies, count])
    first = tf.argmax(tf.cast(broken, tf.int32), axis=0, output_type=tf.int32)
    return Attempt(
        tf.gather(attempt.images, first * count + tf.range(count)),
        tf.reduce_any(broken, axis=0),
        tf.reduce_max(tf.reshape(attempt.gradients, [copies, count]), axis=0),
    )


def climb_repeatedly(
    climb: Callable[[Seed], Images], predict: Predict, loss: Loss, seed: Seed, attempts: int
) -> Images:
    """Climb a loss from several starts; return the images of the largest loss.

    All samples take part in every attempt, so that the result of one does not depend on the
    others.

    Args:
        climb: maps the seed of an attempt to its images.
        predict: maps images to logits in inference mode.
        loss: maps logits to a loss per sample, [batch].
        seed: int32 tensor of shape [2], the seed of the first attempt.
        attempts: number of attempts.

    Example:
        >>> climb = lambda seed: tf.random.stateless_uniform([1, 1], seed)
        >>> best = climb_repeatedly(climb, lambda x: x, lambda x: x[:, 0], tf.constant([0, 0]), 20)
        >>> bool(best > 0.8)
        True
    """
    images = climb(seed)
    if attempts == 1:
        return images

    def body(i: tf.Tensor, images: Images, losses: tf.Tensor) -> tuple[tf.Tensor, ...]:
        others = climb(tf.random.fold_in(seed, i))
        other_losses = loss(predict(others))
        better = broadcast_to_images(other_losses > losses, images)
        return i + 1, tf.where(better, others, images), tf.maximum(other_losses, losses)

    state = (tf.constant(1), images, loss(predict(images)))
    return tf.while_loop(lambda i, *_: i < attempts, body, state)[1]
