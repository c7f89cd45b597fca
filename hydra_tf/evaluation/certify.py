"""Certificates by randomized smoothing (Cohen, Rosenfeld, Kolter, ICML 2019; arXiv 1902.02918).

The smoothed classifier g names the class that the network f is most likely to name under
noise, g(x) = argmax_c P(f(x + e) = c) with e ~ N(0, sigma^2 I). If that probability is at
least p > 1/2, then g names the same class everywhere within sigma * Phi^-1(p) of x in L2
(theorem 1). The noise is not clipped to [0, 1]: the theorem speaks of the whole Gaussian.

All images share the same draws unless told otherwise. The theorem's probability is over the
draws of one image, and those are independent of each other, so that every certificate holds
with probability 1 - alpha by itself, as in the paper. What sharing gives up is that the
certificates of different images fail independently of each other: a certified accuracy has
the same expectation, but somewhat more spread over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from hydra_tf.checks.batches import check_use
from hydra_tf.checks.models import network_of
from hydra_tf.core.graphs import Graphs
from hydra_tf.core.randomness import stateless_seed
from hydra_tf.core.types import Sampling, require_number

ABSTAIN = -1
# With so many images to a draw, making the noise costs a few percent of the forward passes.
TOGETHER = 32
_SELECT, _ESTIMATE, _PREDICT = range(3)  # streams of noise that share no draw
_PHILOX = 1  # the generator whose outputs can be addressed by a counter, four at a time

Votes = Callable[[Any, Any, Any], tf.Tensor]


def gaussian_draws(seed: Any, first: Any, count: Any, shape: tuple[int, ...]) -> tf.Tensor:
    """Return some of the endless sequence of standard normal tensors that a seed names.

    A draw depends on the seed and its place in the sequence alone, however many are made
    at a time.

    Args:
        seed: int32 [2].
        first: place of the first draw, from 0.
        count: number of draws.
        shape: shape of one draw.

    Returns:
        [count, *shape] float32.

    Example:
        >>> both = gaussian_draws([0, 1], 5, 2, (3,))
        >>> bool(tf.reduce_all(both[1] == gaussian_draws([0, 1], 6, 1, (3,))[0]))
        True
    """
    size = math.prod(shape)
    blocks = -(-size // 4)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    skipped = tf.cast(first, tf.uint64) * tf.constant(blocks, tf.uint64)
    flat = tf.raw_ops.StatelessRandomNormalV2(
        shape=tf.stack([count, 4 * blocks]),
        key=key,
        counter=counter + tf.stack([skipped, tf.zeros([], tf.uint64)]),
        alg=_PHILOX,
    )
    return tf.reshape(flat[:, :size], [count, *shape])


def vote_counter(model: Any, image_shape: tuple[int, ...], sigma: float, batch_size: int) -> Votes:
    """Return what counts the classes that a model names under noise.

    Its graph is traced once for a model and a shape, and goes when the model goes.

    Args:
        model: Keras model ``(x, training) -> logits``.
        image_shape: shape of an image.
        sigma: standard deviation of the noise in pixel values.
        batch_size: noisy images per forward pass.

    Returns:
        ``(x [images, ...], seed int32 [2], draws) -> [images, classes]`` int32 votes. A draw
        for which any logit is no number has no vote.
    """

    def trace(model: Callable[[], Any]) -> Any:
        form = [([None, *image_shape], "float32"), ([2], "int32"), ([], "int32")]
        form += [([], "float32"), ([], "int32")]

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype) for shape, dtype in form])
        def run(x: Any, seed: Any, draws: Any, sigma: Any, batch_size: Any) -> Any:
            return _count_votes(model(), x, seed, draws, sigma, batch_size)

        return run

    graph = _graphs.get(model, image_shape, trace)

    def votes(x: Any, seed: Any, draws: Any, model: Any = model) -> tf.Tensor:
        # The default keeps the model alive as long as this function.
        return graph(x, seed, draws, sigma, batch_size)

    return votes


_graphs = Graphs()


def _count_votes(model: Any, x: Any, seed: Any, draws: Any, sigma: Any, batch_size: Any) -> Any:
    """Votes [images, classes] of a number of draws; see :func:`vote_counter`."""
    images, image_shape, classes = tf.shape(x)[0], tuple(x.shape[1:]), _classes(model, x)
    # Passes of equal size, so that the last one is not mostly wasted.
    passes = -(-draws // tf.maximum(1, batch_size // images))
    at_once = -(-draws // passes)

    def body(done: Any, votes: Any) -> tuple[Any, Any]:
        noise = sigma * gaussian_draws(seed, done, at_once, image_shape)
        logits = model(tf.reshape(x[:, None] + noise, [-1, *image_shape]), training=False)
        named = tf.argmax(logits, axis=-1, output_type=tf.int32)
        named = tf.where(tf.reduce_any(tf.math.is_nan(logits), axis=-1), -1, named)
        wanted = done + tf.range(at_once) < draws
        named = tf.where(wanted, tf.reshape(named, [images, at_once]), -1)  # -1 is no vote
        cast = tf.one_hot(named, classes, dtype=tf.int32)
        return done + at_once, votes + tf.reduce_sum(cast, axis=1)

    start = (tf.constant(0), tf.zeros([images, classes], tf.int32))
    shapes = (tf.TensorShape([]), tf.TensorShape([None, classes]))
    # Two passes under way keep the processor busy; more would only fill the memory.
    return tf.while_loop(lambda done, _: done < draws, body, start, shapes, 2)[1]


def _classes(model: Any, x: tf.Tensor) -> int:
    """Number of logits of a model, asked of a subclassed one by a call."""
    if hasattr(model, "output_shape"):
        return int(model.output_shape[-1])
    return int(model(x[:1], training=False).shape[-1])


def clopper_pearson_lower(successes: Any, n: int, alpha: float) -> np.ndarray[Any, Any]:
    """Return the one-sided lower confidence bound of a probability (Clopper and Pearson, 1934).

    Args:
        successes: [...] successes of `n` independent trials.
        n: number of trials.
        alpha: probability with which the bound may be too high.

    Returns:
        [...] float64 in [0, 1]; 0 where there was no success.

    Example:
        >>> round(float(clopper_pearson_lower(100, 100, 0.001)), 4)  # 0.001 ** (1 / 100)
        0.9333
    """
    from scipy.stats import beta

    k = np.asarray(successes, np.float64)
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


def certifier(
    model: Any,
    image_shape: tuple[int, ...],
    how: Sampling,
    seed: int,
    batch_size: int,
    shared_noise: bool,
) -> Callable[[Any, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return Algorithm CERTIFY for a few images at a time, traced once.

    Args:
        model: Keras model that outputs logits.
        image_shape: shape of an image.
        how: noise, draws and error probability.
        seed: seed of the noise.
        batch_size: noisy images per forward pass.
        shared_noise: whether all images see the same draws.

    Returns:
        ``(x [images, ...], index of the first) -> (classes, radii)``; see :func:`certify`.
    """
    votes = vote_counter(model, image_shape, how.sigma, batch_size)

    def run(x: Any, first: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        seeds = [_stream(seed, stream, first, shared_noise) for stream in (_SELECT, _ESTIMATE)]
        chosen = np.argmax(votes(x, seeds[0], how.n0).numpy(), axis=-1)
        found = votes(x, seeds[1], how.n).numpy()[np.arange(len(chosen)), chosen]
        lower = clopper_pearson_lower(found, how.n, how.alpha)
        return _certificates(chosen, lower, how.sigma)

    return run


def _certificates(
    chosen: np.ndarray[Any, Any], lower: np.ndarray[Any, Any], sigma: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Classes and radii from lower bounds of the chosen class's probability (theorem 1)."""
    from scipy.stats import norm

    sure = lower > 0.5
    return np.where(sure, chosen, ABSTAIN), np.where(sure, sigma * norm.ppf(lower), 0.0)


def _stream(seed: int, stream: int, index: int, shared_noise: bool) -> tf.Tensor:
    """The seed of a stream of noise, an image's own unless the images share it."""
    folded = tf.random.fold_in(stateless_seed(seed), stream)
    return folded if shared_noise else tf.random.fold_in(folded, index)


def pieces(length: int, shared_noise: bool, batch_size: int) -> list[slice]:
    """The slices of a batch that are certified at a time, each draw of them in one pass."""
    step = min(TOGETHER, batch_size) if shared_noise else 1
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def require_sizes(seed: Any, **sizes: Any) -> None:
    """Refuse a seed that is no whole number, and sizes that are none or below 1.

    Raises:
        TypeError: for what is no whole number.
        ValueError: for a size below 1.

    Example:
        >>> require_sizes(0, batch_size=512)
    """
    for name, value in {"seed": seed, **sizes}.items():
        require_number(name, value, whole=True)
        if name != "seed" and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")


def _checked(model: Any, x: Any, batch_size: int, seed: int) -> tuple[Any, tf.Tensor]:
    """The model and the images, refused unless they fit."""
    require_sizes(seed, batch_size=batch_size)
    check_use(model, x, np.zeros(len(x)))
    return network_of(model), tf.cast(x, tf.float32)


def certify(
    model: Any,
    x: Any,
    sigma: float = 0.25,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    seed: int = 0,
    *,
    batch_size: int = 512,
    shared_noise: bool = True,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Certify the smoothed classifier at each image: Algorithm CERTIFY of Cohen et al. (2019).

    A class is chosen by `n0` draws; `n` further draws bound its probability from below by
    Clopper and Pearson. The noise of a draw depends on the seed and the draw's number alone,
    so that neither the batch size nor an interruption changes the result.

    Args:
        model: Keras model that outputs logits.
        x: [images, ...] pixel values in [0, 1].
        sigma: standard deviation of the noise in pixel values.
        n0: draws that choose the class.
        n: draws that bound its probability.
        alpha: probability with which a certificate may be wrong.
        seed: seed of the noise.
        batch_size: noisy images per forward pass.
        shared_noise: whether all images see the same draws. Each certificate holds with
            probability 1 - alpha either way; with False they also fail independently of each
            other, but noise made for one image alone can cost more than the network's passes.

    Returns:
        classes, [images] int64, -1 where it abstains; and L2 radii in pixel values, [images]
        float64, 0 where it abstains.

    Raises:
        TypeError: numbers of draws, a batch_size or a seed that are no whole numbers.
        ValueError: a model that ends in a softmax, images outside [0, 1] or of the wrong
            shape, a sigma, n0, n, alpha or batch_size out of range.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[0.0, 1.0], [0.0, 0.0]])])  # class 1 where x1 > 0
        >>> classes, radii = certify(net, np.array([[0.5, 0.0], [0.0, 0.0]]), n=1000)
        >>> classes.tolist(), bool(0.4 < radii[0] < 0.5), float(radii[1])
        ([1, -1], True, 0.0)
    """
    how = Sampling(sigma, n0, n, alpha)
    model, x = _checked(model, x, batch_size, seed)
    run = certifier(model, tuple(x.shape[1:]), how, seed, batch_size, shared_noise)
    found = [run(x[piece], piece.start) for piece in pieces(len(x), shared_noise, batch_size)]
    none = np.zeros(0, np.int64), np.zeros(0)
    classes, radii = zip(none, *found, strict=True)
    return np.concatenate(classes), np.concatenate(radii)


def predict(
    model: Any,
    x: Any,
    sigma: float = 0.25,
    n: int = 10_000,
    alpha: float = 0.001,
    seed: int = 0,
    *,
    batch_size: int = 512,
    shared_noise: bool = True,
) -> np.ndarray[Any, Any]:
    """Return the smoothed classifier's class: Algorithm PREDICT of Cohen et al. (2019).

    A two-sided binomial test asks whether the first of the two commonest classes is more
    likely than the second; otherwise the answer is -1.

    Args:
        model: Keras model that outputs logits.
        x: [images, ...] pixel values in [0, 1].
        sigma: standard deviation of the noise in pixel values.
        n: draws.
        alpha: probability with which a class other than the smoothed classifier's is named.
        seed: seed of the noise; its draws are none of those of :func:`certify`.
        batch_size: noisy images per forward pass.
        shared_noise: as in :func:`certify`.

    Returns:
        [images] int64 classes, -1 where it abstains.

    Raises:
        TypeError: as :func:`certify`.
        ValueError: as :func:`certify`.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[0.0, 1.0], [0.0, 0.0]])])
        >>> predict(net, np.array([[0.5, 0.0], [0.0, 0.0]]), n=1000).tolist()
        [1, -1]
    """
    from scipy.stats import binomtest

    how = Sampling(sigma=sigma, n=n, alpha=alpha)
    model, x = _checked(model, x, batch_size, seed)
    votes = vote_counter(model, tuple(x.shape[1:]), how.sigma, batch_size)
    answers = [np.zeros(0, np.int64)]
    for piece in pieces(len(x), shared_noise, batch_size):
        noise = _stream(seed, _PREDICT, piece.start, shared_noise)
        found = votes(x[piece], noise, how.n).numpy()
        order = np.argsort(-found, axis=-1, kind="stable")[:, :2]
        first, second = np.take_along_axis(found, order, axis=-1).T
        pairs = zip(first, second, strict=True)
        sure = [a > 0 and binomtest(a, a + b).pvalue <= alpha for a, b in pairs]
        answers.append(np.where(sure, order[:, 0], ABSTAIN))
    return np.concatenate(answers)
