"""Certificates by randomized smoothing (Cohen, Rosenfeld, Kolter, ICML 2019; arXiv 1902.02918).

The smoothed classifier g predicts the class that the network f is most likely to predict under
noise, g(x) = argmax_c P(f(x + e) = c) with e ~ N(0, sigma^2 I). If that probability is at
least p > 1/2, then g predicts the same class everywhere within sigma * Phi^-1(p) of x in L2
(theorem 1). The noise is not clipped to [0, 1], because the theorem needs the whole Gaussian.

By default all images share the same draws. The theorem's probability is over the draws of one
image, which are independent of each other, so that every single certificate is correct with
probability at least 1 - alpha, as in the paper. With shared draws, the certificates of different
images do not fail independently of each other: certified accuracy has the same expectation, but a
somewhat larger standard deviation over seeds.
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
from hydra_tf.core.pixels import clipped_pixels
from hydra_tf.core.randomness import stateless_seed
from hydra_tf.core.types import Sampling, least_draws, require_number
from hydra_tf.evaluation.clopper_pearson import clopper_pearson_lower

ABSTAIN = -1
# With this many images per draw, the noise costs a few percent of the forward passes.
IMAGES_PER_DRAW = 32
_SELECT, _ESTIMATE, _PREDICT = range(3)  # streams of noise without common draws
_PHILOX = 1  # a counter-based generator of four outputs per count

Votes = Callable[[Any, Any, Any], tf.Tensor]


def gaussian_draws(seed: Any, first: Any, count: Any, shape: tuple[int, ...]) -> tf.Tensor:
    """Return consecutive draws of the infinite sequence of normal tensors of a seed.

    A draw depends only on the seed and its position in the sequence, not on the number of
    draws made at a time.

    Args:
        seed: int32 [2].
        first: position of the first draw, from 0.
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
    """Return a function that counts the classes that a model predicts under noise.

    Its graph is traced once for a model and a shape, and freed with the model.

    Args:
        model: Keras model ``(x, training) -> logits``.
        image_shape: shape of an image.
        sigma: standard deviation of the noise in pixel values.
        batch_size: noisy images per forward pass.

    Returns:
        ``(x [images, ...], seed int32 [2], draws) -> [images, classes]`` int32 votes. A draw
        with a NaN logit is not counted.
    """

    def trace(model: Callable[[], Any]) -> Any:
        inputs = [([None, *image_shape], "float32"), ([2], "int32"), ([], "int32")]
        inputs += [([], "float32"), ([], "int32")]

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype) for shape, dtype in inputs])
        def run(x: Any, seed: Any, draws: Any, sigma: Any, batch_size: Any) -> Any:
            return _count_votes(model(), x, seed, draws, sigma, batch_size)

        return run

    graph = _graphs.get(model, image_shape, trace)

    def votes(x: Any, seed: Any, draws: Any, model: Any = model) -> tf.Tensor:
        # The default argument keeps the model alive as long as this function.
        return graph(x, seed, draws, sigma, batch_size)

    return votes


_graphs = Graphs()


def _count_votes(model: Any, x: Any, seed: Any, draws: Any, sigma: Any, batch_size: Any) -> Any:
    """Return the votes [images, classes] of some draws; see :func:`vote_counter`."""
    images, image_shape, classes = tf.shape(x)[0], tuple(x.shape[1:]), _classes(model, x)
    # Passes of equal size, so that the last one is not mostly padding.
    passes = -(-draws // tf.maximum(1, batch_size // images))
    draws_per_pass = -(-draws // passes)

    def body(done: Any, votes: Any) -> tuple[Any, Any]:
        noise = sigma * gaussian_draws(seed, done, draws_per_pass, image_shape)
        logits = model(tf.reshape(x[:, None] + noise, [-1, *image_shape]), training=False)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        predicted = tf.where(tf.reduce_any(tf.math.is_nan(logits), axis=-1), -1, predicted)
        wanted = done + tf.range(draws_per_pass) < draws
        predicted = tf.where(
            wanted, tf.reshape(predicted, [images, draws_per_pass]), -1
        )  # -1 is not counted
        vote = tf.one_hot(predicted, classes, dtype=tf.int32)
        return done + draws_per_pass, votes + tf.reduce_sum(vote, axis=1)

    start = (tf.constant(0), tf.zeros([images, classes], tf.int32))
    shapes = (tf.TensorShape([]), tf.TensorShape([None, classes]))
    # Two passes in parallel keep the processor busy; more would only use memory.
    return tf.while_loop(lambda done, _: done < draws, body, start, shapes, 2)[1]


def _classes(model: Any, x: tf.Tensor) -> int:
    """Return the number of logits of a model; a subclassed model is called on an image."""
    if hasattr(model, "output_shape"):
        return int(model.output_shape[-1])
    return int(model(x[:1], training=False).shape[-1])


def certifier(
    model: Any,
    image_shape: tuple[int, ...],
    sampling: Sampling,
    seed: int,
    batch_size: int,
    shared_noise: bool,
) -> Callable[[Any, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return Algorithm CERTIFY as a function of a few images at a time, traced once.

    Args:
        model: Keras model that outputs logits.
        image_shape: shape of an image.
        sampling: noise, draws and error probability.
        seed: seed of the noise.
        batch_size: noisy images per forward pass.
        shared_noise: whether all images share the same draws.

    Returns:
        ``(x [images, ...], index of the first) -> (classes, radii)``; see :func:`certify`.
    """
    votes = vote_counter(model, image_shape, sampling.sigma, batch_size)

    def run(x: Any, first: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        seeds = [_stream(seed, stream, first, shared_noise) for stream in (_SELECT, _ESTIMATE)]
        chosen = np.argmax(votes(x, seeds[0], sampling.n0).numpy(), axis=-1)
        counts = votes(x, seeds[1], sampling.n).numpy()[np.arange(len(chosen)), chosen]
        lower = clopper_pearson_lower(counts, sampling.n, sampling.alpha)
        return _certificates(chosen, lower, sampling.sigma)

    return run


def _certificates(
    chosen: np.ndarray[Any, Any], lower: np.ndarray[Any, Any], sigma: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return classes and radii from lower bounds of the class probability (theorem 1)."""
    from scipy.stats import norm

    certified = lower > 0.5
    return np.where(certified, chosen, ABSTAIN), np.where(certified, sigma * norm.ppf(lower), 0.0)


def _stream(seed: int, stream: int, index: int, shared_noise: bool) -> tf.Tensor:
    """Return the seed of a stream of noise, for one image unless all images share it."""
    folded = tf.random.fold_in(stateless_seed(seed), stream)
    return folded if shared_noise else tf.random.fold_in(folded, index)


def pieces(length: int, shared_noise: bool, batch_size: int) -> list[slice]:
    """Return the slices of a batch that are certified together."""
    step = min(IMAGES_PER_DRAW, batch_size) if shared_noise else 1
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def require_sizes(seed: Any, **sizes: Any) -> None:
    """Check that a seed is a whole number, and that sizes are whole numbers of at least 1.

    Raises:
        TypeError: for a value that is not a whole number.
        ValueError: for a size below 1.

    Example:
        >>> require_sizes(0, batch_size=512)
    """
    for name, value in {"seed": seed, **sizes}.items():
        require_number(name, value, whole=True)
        if name != "seed" and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")


def _checked(model: Any, x: Any, batch_size: int, seed: int) -> tuple[Any, tf.Tensor]:
    """Return the checked model, and the images, clipped to [0, 1]."""
    require_sizes(seed, batch_size=batch_size)
    check_use(model, x, np.zeros(len(x)))
    return network_of(model), clipped_pixels(x)


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

    `n0` draws choose a class; `n` further draws bound its probability from below by Clopper and
    Pearson. The noise of a draw depends only on the seed and the number of the draw, so that
    neither the batch size nor an interruption changes the result.

    Args:
        model: Keras model that outputs logits.
        x: [images, ...] pixel values in [0, 1]; those outside by rounding, up to 1e-6, are clipped.
        sigma: standard deviation of the noise in pixel values.
        n0: draws that choose the class.
        n: draws that bound its probability.
        alpha: probability that a certificate is wrong.
        seed: seed of the noise.
        batch_size: noisy images per forward pass.
        shared_noise: whether all images share the same draws. Each certificate is correct with
            probability at least 1 - alpha in both cases; with False they also fail independently
            of each other, but noise for a single image can cost more than the forward passes.

    Returns:
        classes, [images] int64, -1 for an abstention; and L2 radii in pixel values, [images]
        float64, 0 for an abstention.

    Raises:
        TypeError: a number of draws, batch_size or seed that is not a whole number.
        ValueError: a model that ends in a softmax, images outside [0, 1] or of the wrong
            shape, a sigma, n0, n, alpha or batch_size out of range, or an `n` with which every
            image would be an abstention.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[0.0, 1.0], [0.0, 0.0]])])  # class 1 where x1 > 0
        >>> classes, radii = certify(net, np.array([[0.5, 0.0], [0.0, 0.0]]), n=1000)
        >>> classes.tolist(), bool(0.4 < radii[0] < 0.5), float(radii[1])
        ([1, -1], True, 0.0)
    """
    sampling = Sampling(sigma, n0, n, alpha)
    model, x = _checked(model, x, batch_size, seed)
    run = certifier(model, tuple(x.shape[1:]), sampling, seed, batch_size, shared_noise)
    results = [run(x[piece], piece.start) for piece in pieces(len(x), shared_noise, batch_size)]
    none = np.zeros(0, np.int64), np.zeros(0)
    classes, radii = zip(none, *results, strict=True)
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

    A two-sided binomial test decides whether the most frequent class is more likely than the
    second; otherwise the result is -1.

    Args:
        model: Keras model that outputs logits.
        x: [images, ...] pixel values in [0, 1].
        sigma: standard deviation of the noise in pixel values.
        n: draws.
        alpha: probability that the returned class is not the smoothed classifier's.
        seed: seed of the noise; its draws differ from those of :func:`certify`.
        batch_size: noisy images per forward pass.
        shared_noise: as in :func:`certify`.

    Returns:
        [images] int64 classes, -1 for an abstention.

    Raises:
        TypeError: as :func:`certify`.
        ValueError: as :func:`certify`; also for an `n` with which every image would be an
            abstention, because 2 / 2^n is above alpha.

    Example:
        >>> import keras
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, use_bias=False)])
        >>> net.set_weights([np.array([[0.0, 1.0], [0.0, 0.0]])])
        >>> predict(net, np.array([[0.5, 0.0], [0.0, 0.0]]), n=1000).tolist()
        [1, -1]
    """
    from scipy.stats import binomtest

    sampling = Sampling(sigma=sigma, n=n, alpha=alpha)
    if 2 * 0.5**n > alpha:  # the p-value when all draws agree
        raise ValueError(
            f"n={n} draws cannot predict with alpha={alpha}, even if all of them agree; use at "
            f"least n={least_draws(math.nextafter(alpha / 2, 1))}."
        )
    model, x = _checked(model, x, batch_size, seed)
    votes = vote_counter(model, tuple(x.shape[1:]), sampling.sigma, batch_size)
    answers = [np.zeros(0, np.int64)]
    for piece in pieces(len(x), shared_noise, batch_size):
        noise = _stream(seed, _PREDICT, piece.start, shared_noise)
        counts = votes(x[piece], noise, sampling.n).numpy()
        order = np.argsort(-counts, axis=-1, kind="stable")[:, :2]
        first, second = np.take_along_axis(counts, order, axis=-1).T
        pairs = zip(first, second, strict=True)
        significant = [a > 0 and binomtest(a, a + b).pvalue <= alpha for a, b in pairs]
        answers.append(np.where(significant, order[:, 0], ABSTAIN))
    return np.concatenate(answers)
