"""Restarts and ensembles: each further attack sees only samples that are not yet broken."""

from __future__ import annotations

from collections.abc import Callable

from hydra_tf.attacks.norms import broadcast_to_images
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Seed


def attack_remaining(
    attempt: Callable[[Images, Labels], tuple[Images, tf.Tensor]],
    x: Images,
    y: Labels,
    best: Images,
    broken: tf.Tensor,
) -> tuple[Images, tf.Tensor]:
    """Attack the samples that are not yet broken.

    A sample that the attack does not break keeps its image in `best`.

    Args:
        attempt: maps images and labels to adversarial images and [batch] booleans, true
            where the adversarial image is misclassified.
        x: [batch, ...] images.
        y: [batch] integer labels, or [batch, k] with further values per sample.
        best: [batch, ...] adversarial images of earlier attacks.
        broken: [batch] booleans, true where `best` is misclassified.

    Returns:
        `best` and `broken` after the attack.

    Example:
        >>> x, broken = tf.constant([[0.1], [0.2], [0.3]]), tf.constant([True, False, False])
        >>> brighten = lambda x, y: (x + 0.5, x[:, 0] > 0.25)
        >>> best, broken = attack_remaining(brighten, x, tf.zeros(3, tf.int32), x, broken)
        >>> best.numpy().round(1).tolist(), broken.numpy().tolist()
        ([[0.1], [0.2], [0.8]], [True, False, True])
    """
    remaining = tf.where(~broken)
    indices = remaining[:, 0]
    x_adv, newly_broken = attempt(tf.gather(x, indices), tf.gather(y, indices))
    x_adv = tf.where(broadcast_to_images(newly_broken, x), x_adv, tf.gather(best, indices))
    best = tf.tensor_scatter_nd_update(best, remaining, x_adv)
    return best, tf.tensor_scatter_nd_update(broken, remaining, newly_broken)


def attack_repeatedly(
    attempt: Callable[[tf.Tensor, Images, Labels, Seed], tuple[Images, tf.Tensor]],
    x: Images,
    y: Labels,
    seed: Seed,
    attempts: int,
) -> tuple[Images, tf.Tensor]:
    """Attack all samples once, then again those that are not yet broken.

    Args:
        attempt: maps the number of the attempt, images, labels and the seed of the attempt to
            adversarial images and [batch] booleans, true where they are misclassified.
        x: [batch, ...] images.
        y: [batch] integer labels, or [batch, k] with further values per sample.
        seed: int32 tensor of shape [2], the seed of the first attempt.
        attempts: number of attempts, the first included.

    Returns:
        The images, through which no gradient flows, and [batch] booleans, true where they
        are misclassified. A sample that no attempt breaks has the image of the first one.
    """
    best, broken = attempt(tf.constant(0), x, y, seed)

    def body(i: tf.Tensor, best: Images, broken: tf.Tensor) -> tuple[tf.Tensor, Images, tf.Tensor]:
        attempt_seed = tf.random.fold_in(seed, i)
        best, broken = attack_remaining(
            lambda x, y: attempt(i, x, y, attempt_seed), x, y, best, broken
        )
        return i + 1, best, broken

    def unfinished(i: tf.Tensor, _: Images, broken: tf.Tensor) -> tf.Tensor:
        return (i < attempts) & ~tf.reduce_all(broken)

    if attempts > 1:
        _, best, broken = tf.while_loop(unfinished, body, (tf.constant(1), best, broken))
    return tf.stop_gradient(best), broken
