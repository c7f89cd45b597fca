"""Restarts and ensembles: each further attack sees only the samples that still hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra_tf.attacks.norms import wide
from hydra_tf.core.lazy import tf


def attack_rest(
    attempt: Callable[[Any, Any], tuple[Any, Any]],
    x: tf.Tensor,
    y: tf.Tensor,
    best: tf.Tensor,
    broken: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Try an attack on the samples that still hold; those that it breaks take its images.

    Of two images that do not break a sample the first stays.

    Args:
        attempt: maps images and labels to adversarial images and [batch] booleans, true
            where they break the sample.
        x: [batch, ...] images.
        y: [batch] integer labels.
        best: [batch, ...] the images found before.
        broken: [batch] booleans, true where `best` is misclassified.

    Returns:
        `best` and `broken` after the attack.

    Example:
        >>> x, held = tf.constant([[0.1], [0.2], [0.3]]), tf.constant([True, False, False])
        >>> raised = lambda x, y: (x + 0.5, x[:, 0] > 0.25)
        >>> best, broken = attack_rest(raised, x, tf.zeros(3, tf.int32), x, held)
        >>> best.numpy().round(1).tolist(), broken.numpy().tolist()
        ([[0.1], [0.2], [0.8]], [True, False, True])
    """
    where = tf.where(~broken)
    found, broke = attempt(tf.gather(x, where[:, 0]), tf.gather(y, where[:, 0]))
    found = tf.where(wide(broke, x), found, tf.gather(best, where[:, 0]))
    best = tf.tensor_scatter_nd_update(best, where, found)
    return best, tf.tensor_scatter_nd_update(broken, where, broke)


def attack_again(
    attempt: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
    x: tf.Tensor,
    y: tf.Tensor,
    seed: tf.Tensor,
    tries: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attack once, then again and again the samples that still hold.

    Args:
        attempt: maps the number of the try, images, labels and a seed of its own to
            adversarial images and [batch] booleans, true where they break the sample.
        x: [batch, ...] images.
        y: [batch] integer labels, or [batch, k] with what else belongs to a sample.
        seed: int32 tensor of shape [2]; the first try uses it as it is.
        tries: how often; the first counts.

    Returns:
        The images, through which no gradient flows, and [batch] booleans, true where they
        are misclassified. A sample that nothing breaks has the image of the first try.
    """
    best, broken = attempt(tf.constant(0), x, y, seed)

    def body(i: Any, best: Any, broken: Any) -> tuple[Any, Any, Any]:
        fresh = tf.random.fold_in(seed, i)
        return (i + 1, *attack_rest(lambda x, y: attempt(i, x, y, fresh), x, y, best, broken))

    def unfinished(i: Any, _: Any, broken: Any) -> Any:
        return (i < tries) & ~tf.reduce_all(broken)

    if tries > 1:
        _, best, broken = tf.while_loop(unfinished, body, (tf.constant(1), best, broken))
    return tf.stop_gradient(best), broken
