"""Square attack: random search without gradients (Andriushchenko et al., ECCV 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import margin, misclassified
from hydra_tf.attacks.norms import choose_images, lengths, project, random_start
from hydra_tf.core.lazy import tf
from hydra_tf.core.types import Images, Labels, Logits, Seed

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # halvings of p in 10,000 queries
TILES = 5  # the L2 attack starts from 5 x 5 tiles

# Maps the number of the window size, the benign images, the current images and a seed to
# candidate images.
Proposal: TypeAlias = "Callable[[tf.Tensor, Images, Images, Seed], Images]"
IntArray: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
FloatArray: TypeAlias = "np.ndarray[Any, np.dtype[np.floating[Any]]]"


@ATTACKS.register()
@dataclass(frozen=True)
class Square(Attack):
    """Square attack: random changes of square windows, accepted if they increase the margin.

    The attack needs logits only, so masked gradients do not affect it. Vectors, [batch,
    features], are treated as images of one row, whose windows are intervals; arrays [batch,
    height, width] as images of one channel; arrays with more axes as vectors.

    A misclassified sample is returned unchanged. A broken sample is left out as soon as the
    window size changes. A sample that is not broken has the image of the largest margin.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        queries: number of changed images that the model may evaluate per image.
        p_init: share of the pixels in the first window, in (0, 1].

    Example:
        >>> Square(queries=10_000).share(300)
        0.1
    """

    queries: int = 5000
    p_init: float = 0.8
    uses_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, not {self.queries}.")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is a share of the pixels in (0, 1], not {self.p_init}.")

    def share(self, query: int) -> float:
        """Return the share of the pixels in the window of a query."""
        scaled_query = query * 10_000 // self.queries
        return self.p_init / 2 ** sum(scaled_query > halving for halving in HALVINGS)

    def window(self, query: int, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the window of a query, in pixels.

        Example:
            >>> Square().window(0, 28, 28), Square().window(0, 1, 20)
            ((25, 25), (1, 16))
        """
        pixels = self.share(query) * height * width
        if height == 1:
            return 1, max(1, round(pixels))
        side = max(round(math.sqrt(pixels)), 1 if self.norm == "linf" else 3)
        if self.norm == "l2":
            side += side % 2 == 0  # odd, so that the window has a central pixel
        side = min(side, height, width)
        return side, side

    def perturb(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Images:
        """Return the images of the largest margin; see :meth:`Attack.perturb`.

        Raises:
            ValueError: for images of unknown size.
        """
        if None in x.shape[1:]:
            raise ValueError(
                f"The Square attack needs images of a known size, not of shape {tuple(x.shape)}."
            )
        images = tf.reshape(x, [-1, *_image_shape(tuple(x.shape[1:]))])

        def predict_images(images: Images) -> Logits:
            return predict(tf.reshape(images, [-1, *x.shape[1:]]))

        best = self._search(predict_images, images, y, seed)
        return tf.stop_gradient(tf.reshape(best, [-1, *x.shape[1:]]))

    def _stages(self, height: int, width: int) -> tuple[list[tuple[int, int]], IntArray]:
        """Return the window sizes, largest first, and the number of the query that ends each."""
        windows = [self.window(i, height, width) for i in range(self.queries)]
        sizes = sorted(set(windows), reverse=True)
        return sizes, np.cumsum([windows.count(size) for size in sizes]).astype(np.int32)

    def _search(self, predict: Predict, x: Images, y: Labels, seed: Seed) -> Images:
        wrong = misclassified(y, predict(x))
        start = INITIAL_IMAGES[self.norm](x, self.epsilon, seed)
        start = choose_images(wrong, x, start)
        logits = predict(start)  # the first query
        best = _Best(start, margin(y, logits), misclassified(y, logits))
        sizes, ends = self._stages(x.shape[1], x.shape[2])
        propose = PROPOSALS[self.norm](x, self.epsilon, sizes)

        def stage(k: tf.Tensor, i: tf.Tensor, best: _Best) -> tuple[tf.Tensor, tf.Tensor, _Best]:
            """Run all queries of one window size on the samples that are not yet broken."""
            remaining = tf.where(~best.broken)
            x_left, y_left, images, margins = (
                tf.gather(values, remaining[:, 0]) for values in (x, y, best.images, best.margins)
            )

            def query(i: tf.Tensor, left: _Best) -> tuple[tf.Tensor, _Best]:
                candidate = propose(k, x_left, left.images, tf.random.fold_in(seed, i))
                return i + 1, left.updated(candidate, predict(candidate), y_left)

            end = tf.gather(ends, k)
            _, left = tf.while_loop(
                lambda i, left: (i < end) & ~tf.reduce_all(left.broken),
                query,
                (i, _Best(images, margins, tf.zeros_like(y_left, tf.bool))),
            )
            updates = [
                tf.tensor_scatter_nd_update(old, remaining, new)
                for old, new in zip(best, left, strict=True)
            ]
            return k + 1, end, _Best(*updates)

        def unfinished(k: tf.Tensor, _: tf.Tensor, best: _Best) -> tf.Tensor:
            return (k < len(sizes)) & ~tf.reduce_all(best.broken)

        state = tf.while_loop(unfinished, stage, (tf.constant(0), tf.constant(1), best))
        return state[2].images


class _Best(NamedTuple):
    """The image of largest margin of each sample so far.

    Args:
        images: [batch, height, width, channels].
        margins: [batch].
        broken: [batch] booleans, true where the image is misclassified.
    """

    images: Images
    margins: tf.Tensor
    broken: tf.Tensor

    def updated(self, candidate: Images, logits: Logits, y: Labels) -> _Best:
        """Return the best images after the evaluation of a candidate per sample.

        A broken sample may change again, but only to an image of larger margin.
        """
        margins = margin(y, logits)
        better = margins > self.margins
        return _Best(
            choose_images(better, candidate, self.images),
            tf.maximum(margins, self.margins),
            self.broken | (better & misclassified(y, logits)),
        )


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return height, width and channels for the shape of a sample."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return shape[0], shape[1], 1
    return 1, math.prod(shape), 1


def _signs(uniform: tf.Tensor) -> tf.Tensor:
    return tf.where(uniform < 0.5, -1.0, 1.0)


def _linf_start(x: Images, epsilon: float, seed: Seed) -> Images:
    """Return images with vertical stripes of random sign."""
    return random_start(x, "linf", epsilon, seed, "stripes")


def _l2_start(x: Images, epsilon: float, seed: Seed) -> Images:
    """Return images with an eta pattern of random sign and orientation on every tile."""
    height, width, channels = x.shape[1:]
    tile = max(1, (width if height == 1 else min(height, width)) // TILES)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    shape = [tf.shape(x)[0], -(-height // tile), -(-width // tile), 1 + channels]
    uniform = tf.random.stateless_uniform(shape, seed)
    uniform = tf.gather(tf.gather(uniform, rows[:, 0] // tile, axis=1), columns // tile, axis=2)
    patterns = eta_patterns(min(height, tile), tile)[:, rows % tile, columns % tile, None]
    change = tf.where(uniform[..., :1] < 0.5, *patterns) * _signs(uniform[..., 1:])
    change *= tf.math.divide_no_nan(epsilon, lengths(change, axes=[1, 2, 3]))
    return project(x + change, x, "l2", epsilon)


def _linf_proposal(x: Images, epsilon: float, sizes: list[tuple[int, int]]) -> Proposal:
    """Return the proposal in the Linf ball: a window changes by +-epsilon."""
    channels = x.shape[-1]

    def propose(k: tf.Tensor, x: Images, current: Images, seed: Seed) -> Images:
        uniform = tf.random.stateless_uniform([tf.shape(x)[0], 2 + channels], seed)
        rows, columns = _window_coordinates(x, tf.gather(sizes, k), uniform[:, :2])
        signs = _signs(uniform[:, None, None, 2:])
        inside = _in_window(rows, columns, tf.gather(sizes, k))
        return project(tf.where(inside, x + epsilon * signs, current), x, "linf", epsilon)

    return propose


def _l2_proposal(x: Images, epsilon: float, sizes: list[tuple[int, int]]) -> Proposal:
    """Return the proposal in the L2 ball (Algorithm 4).

    The first window gets an eta pattern, and the second is reset to the benign image. The
    change in the first is scaled to the length that both windows had before, together with
    what the image has not used of epsilon.
    """
    height, width, channels = x.shape[1:]
    patterns = np.zeros([len(sizes), 2, height * width], np.float32)
    for pattern, (a, b) in zip(patterns, sizes, strict=True):
        pattern.reshape(2, height, width)[:, :a, :b] = eta_patterns(a, b)

    def propose(k: tf.Tensor, x: Images, current: Images, seed: Seed) -> Images:
        uniform = tf.random.stateless_uniform([tf.shape(x)[0], 5 + channels], seed)
        size = tf.gather(sizes, k)
        rows, columns = _window_coordinates(x, size, uniform[:, :2])
        inside = _in_window(rows, columns, size)
        in_either = inside | _in_window(*_window_coordinates(x, size, uniform[:, 2:4]), size)
        pattern = tf.gather(patterns, k)
        positions = tf.where(inside, rows * width + columns, 0)
        vertical = uniform[:, None, None, 4:5] < 0.5
        eta = tf.where(vertical, tf.gather(pattern[0], positions), tf.gather(pattern[1], positions))
        change = current - x
        window_change = tf.where(inside, change, 0.0)
        new = eta * _signs(uniform[:, None, None, 5:])
        new += tf.math.divide_no_nan(window_change, lengths(window_change, axes=[1, 2, 3]))
        new = tf.where(inside, new, 0.0)
        squares = tf.square(change)
        used = tf.reduce_sum(tf.where(in_either, squares, 0.0), [1, 2], keepdims=True)
        unused = epsilon**2 - tf.reduce_sum(squares, [1, 2, 3], keepdims=True)
        length = tf.sqrt(used + tf.maximum(0.0, unused) / channels)
        new *= tf.math.divide_no_nan(length, lengths(new, axes=[1, 2]))
        return project(x + new + tf.where(in_either, 0.0, change), x, "l2", epsilon)

    return propose


def _window_coordinates(
    x: Images, size: tf.Tensor, uniform: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return rows and columns of the pixels, counted from the corner of a random window."""
    height, width = x.shape[1:3]
    corners = tf.cast([height, width] - size + 1, tf.float32)
    corner = tf.cast(uniform * corners, tf.int32)[:, None, None, :, None]
    rows = np.arange(height, dtype=np.int32)[:, None, None] - corner[..., 0, :]
    return rows, np.arange(width, dtype=np.int32)[:, None] - corner[..., 1, :]


def _in_window(rows: tf.Tensor, columns: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return [batch, height, width, 1] booleans, true in a window of the given size."""
    return (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])


def eta_patterns(height: int, width: int) -> FloatArray:
    """Return the patterns eta of the L2 attack (section 4.3), split vertically and horizontally.

    Each consists of a positive and a negative peak, one above the other or one next to the
    other.

    Args:
        height: of the pattern, in pixels.
        width: of the pattern, in pixels.

    Returns:
        [2, height, width] float32, both of length 1. A pattern of one row is always split
        horizontally.

    Example:
        >>> eta_patterns(1, 4)[1].round(2).tolist()
        [[0.14, 0.69, -0.14, -0.69]]
    """
    horizontal = _two_peaks(height, width)
    vertical = _two_peaks(width, height).T if height > 1 else horizontal
    patterns = np.stack([vertical, horizontal])
    return (patterns / np.linalg.norm(patterns, axis=(1, 2), keepdims=True)).astype(np.float32)


def _two_peaks(height: int, width: int) -> FloatArray:
    left = width // 2
    return np.concatenate([_peak(height, left), -_peak(height, width - left)], axis=1)


def _peak(height: int, width: int) -> FloatArray:
    """Return a sum of centred rectangles, that of radius k - 1 with the value 1 / k^2."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    distance = np.maximum(abs(rows - height // 2), abs(columns - width // 2))
    radii = np.arange(max(height, width) // 2 + 1)
    return np.sum((distance[..., None] <= radii) / (radii + 1.0) ** 2, axis=-1)


INITIAL_IMAGES = {"linf": _linf_start, "l2": _l2_start}
PROPOSALS = {"linf": _linf_proposal, "l2": _l2_proposal}
