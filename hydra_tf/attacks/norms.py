"""Geometry of the Linf and L2 balls: projection, steepest ascent, random starts."""

from __future__ import annotations

from collections.abc import Callable

from hydra_tf.core.lazy import tf
from hydra_tf.core.randomness import for_samples
from hydra_tf.core.registry import unknown
from hydra_tf.core.types import Images, Norm, Seed

STARTS = ("uniform", "normal", "stripes", "zero")
_TINY = 1e-12  # keeps divisions by a vanishing norm finite


def lengths(
    batch: Images, norm: Norm = "l2", axes: list[int] | None = None, least_square: float = 0.0
) -> tf.Tensor:
    """Return the length of each sample, [batch, 1, ...], to broadcast against images.

    Args:
        batch: [batch, ...].
        norm: ``"linf"`` or ``"l2"``.
        axes: axes of the length; all but the first by default.
        least_square: lower limit of the square of an L2 length.

    Example:
        >>> lengths(tf.constant([[3.0, -4.0]])).numpy().tolist()
        [[5.0]]
    """
    axes = axes or list(range(1, len(batch.shape)))
    if norm == "linf":
        return tf.reduce_max(tf.abs(batch), axes, keepdims=True)
    squares = tf.reduce_sum(tf.square(batch), axes, keepdims=True)
    return tf.sqrt(tf.maximum(squares, least_square) if least_square else squares)


def project(x_adv: Images, x: Images, norm: Norm, epsilon: float | tf.Tensor) -> Images:
    """Return images clipped to [0, 1] and then projected onto the ball around `x`.

    Args:
        x_adv: [batch, ...] candidate images.
        x: [batch, ...] ball centres, pixel values in [0, 1].
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in pixel values.

    Example:
        >>> project(tf.constant([[0.9]]), tf.constant([[0.5]]), "linf", 0.25).numpy().tolist()
        [[0.75]]
    """
    return projection(x, norm, epsilon)(x_adv)


def projection(x: Images, norm: Norm, epsilon: float | tf.Tensor) -> Callable[[Images], Images]:
    """Return :func:`project` for fixed balls; made before a loop, it is faster inside.

    Args:
        x: [batch, ...] ball centres, pixel values in [0, 1].
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in pixel values.

    Example:
        >>> onto_ball = projection(tf.constant([[0.5]]), "linf", 0.25)
        >>> onto_ball(tf.constant([[0.9]])).numpy().tolist()
        [[0.75]]
    """
    if norm == "linf":
        low, high = tf.maximum(x - epsilon, 0.0), tf.minimum(x + epsilon, 1.0)
        return lambda x_adv: tf.maximum(tf.minimum(x_adv, high), low)

    def onto_l2_ball(x_adv: Images) -> Images:
        change = tf.clip_by_value(x_adv, 0.0, 1.0) - x
        # On the line to x, which lies in [0, 1], so that the result does too.
        return x + change * tf.minimum(1.0, epsilon / lengths(change, least_square=_TINY))

    return onto_l2_ball


def steepest_step(gradient: tf.Tensor, norm: Norm) -> tf.Tensor:
    """Return the direction of unit norm along which a linear function grows fastest.

    The gradient is normalised without a lower limit on its length, because the gradients of
    confident predictions are tiny and a limit would stop the attack there.

    Args:
        gradient: [batch, ...].
        norm: ``"linf"`` gives the sign, ``"l2"`` the gradient divided by its length.

    Example:
        >>> steepest_step(tf.constant([[3.0, -4.0]]), "linf").numpy().tolist()
        [[1.0, -1.0]]
    """
    if norm == "linf":
        return tf.sign(gradient)
    largest = tf.reduce_max(tf.abs(gradient), list(range(1, len(gradient.shape))), keepdims=True)
    scaled = tf.math.divide_no_nan(gradient, largest)
    return scaled / lengths(scaled, least_square=_TINY)


def random_start(
    x: Images, norm: Norm, epsilon: float | tf.Tensor, seed: Seed, start: str = "uniform"
) -> Images:
    """Return the first images of an attack.

    Args:
        x: [batch, ...] ball centres.
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in pixel values.
        seed: int32 tensor of shape [2].
        start: ``"uniform"`` draws from the whole ball, ``"normal"`` adds 0.001 * N(0, I) as
            TRADES does, ``"stripes"`` adds vertical stripes of random sign that reach the
            border of the ball, as the Square attack does, ``"zero"`` is `x`.

    Raises:
        ValueError: for an unknown `start`.

    Example:
        >>> random_start(tf.constant([[0.5]]), "linf", 0.1, [0, 0], "zero").numpy().tolist()
        [[0.5]]
    """
    if start not in STARTS:
        raise ValueError(unknown("start", start, STARTS))
    if start == "zero":
        return x
    if start == "normal":
        start_images = x + 0.001 * normal(x, seed)
    elif start == "stripes":
        start_images = x + epsilon * _stripes(x, norm, seed)
    elif norm == "linf":
        noise = _uniform(tf.shape(x), seed, -1.0, x.dtype)
        start_images = x + epsilon * noise
    else:
        # A direction from the sphere times u^(1/n) is uniform in the ball.
        seeds = tf.random.split(seed, 2)
        noise = normal(x, seeds[0])
        length = lengths(noise, least_square=_TINY)
        size = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), x.dtype)
        radii = _uniform(tf.shape(length), seeds[1], 0.0, x.dtype)
        start_images = x + epsilon * radii ** (1.0 / size) * noise / length
    return project(start_images, x, norm, epsilon)


def _stripes(x: Images, norm: Norm, seed: Seed) -> tf.Tensor:
    """Return a change of unit norm: for each sample, column and channel one random sign.

    The height, if there is one, is the third axis from the end.
    """
    shape = tf.shape(x)
    width = max(1, len(x.shape) - 2)
    columns = tf.concat([shape[:1], tf.ones([width - 1], tf.int32), shape[width:]], axis=0)
    noise = _uniform(columns, seed, -1.0, x.dtype)
    signs = tf.where(noise < 0, -tf.ones_like(noise), tf.ones_like(noise))
    if norm == "linf":
        return signs
    return signs / tf.sqrt(tf.cast(tf.reduce_prod(shape[1:]), x.dtype))


def normal(x: Images, seed: Seed) -> tf.Tensor:
    """Return standard normal noise of the shape of a batch.

    Args:
        x: [batch, ...] images.
        seed: int32 tensor of shape [2].

    Example:
        >>> normal(tf.zeros([2, 3]), [0, 0]).shape
        TensorShape([2, 3])
    """
    return for_samples(
        lambda shape: tf.random.stateless_normal(shape, seed, dtype=x.dtype),
        tf.shape(x),
    )


def choose_images(condition: tf.Tensor, images: Images, others: Images) -> Images:
    """Return the image where a sample's condition is true, else the other image.

    Copies whole samples, which takes a third of the time of `tf.where` with broadcasting.

    Args:
        condition: [batch] booleans.
        images: [batch, ...].
        others: of the same shape.

    Example:
        >>> choose_images([True, False], tf.ones([2, 2]), tf.zeros([2, 2])).numpy().tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """
    return tf.raw_ops.Select(condition=condition, x=images, y=others)


def _uniform(shape: tf.Tensor, seed: Seed, low: float, dtype: tf.DType) -> tf.Tensor:
    """Return uniform numbers in [low, 1)."""
    return for_samples(
        lambda shape: tf.random.stateless_uniform(shape, seed, low, 1.0, dtype), shape
    )


def broadcast_to_images(values: tf.Tensor, x: Images) -> tf.Tensor:
    """Return [batch] values as [batch, 1, ...], to broadcast against images.

    Example:
        >>> broadcast_to_images(tf.zeros([5]), tf.zeros([5, 8, 8, 1])).shape.as_list()
        [5, 1, 1, 1]
    """
    return tf.reshape(values, [-1] + [1] * (len(x.shape) - 1))
