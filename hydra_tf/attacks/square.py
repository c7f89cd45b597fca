"""Square attack: random search without gradients (Andriushchenko et al., ECCV 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.attacks.base import ATTACKS, Attack
from hydra_tf.attacks.inference import Predict
from hydra_tf.attacks.losses import margin, misclassified
from hydra_tf.attacks.norms import lengths, project, wide
from hydra_tf.core.lazy import tf

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after so many of 10,000 queries
TILES = 5  # the L2 attack starts with a bump on each of 5 x 5 tiles


@ATTACKS.register()
@dataclass(frozen=True)
class Square(Attack):
    """Square attack: squares at random places, kept where they raise the margin.

    It asks for logits only, so that nothing done to gradients stops it. Vectors, [batch,
    features], are images of one row, in which a square is a stretch of neighbours; arrays
    [batch, height, width] are images of one channel; those of more axes count as vectors.

    A sample that the model gets wrong comes back as it is, and one that is broken is left
    out from the next size of squares on; one that holds has the image of the largest margin.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: radius in units of pixel values in [0, 1].
        queries: how often the model may be asked about an image's changes.
        p_init: share of an image's pixels that the first square changes, in (0, 1].

    Example:
        >>> Square(queries=10_000).share(300)
        0.1
    """

    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, not {self.queries}.")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is a share of the pixels in (0, 1], not {self.p_init}.")

    def share(self, query: int) -> float:
        """The share of an image's pixels in a query's square: p_init, halved nine times."""
        at = query * 10_000 // self.queries
        return self.p_init / 2 ** sum(at > halving for halving in HALVINGS)

    def window(self, query: int, height: int, width: int) -> tuple[int, int]:
        """Height and width of a query's window, in pixels.

        Example:
            >>> Square().window(0, 28, 28), Square().window(0, 1, 20)
            ((25, 25), (1, 16))
        """
        pixels = self.share(query) * height * width
        if height == 1:
            return 1, max(1, round(pixels))
        side = max(round(math.sqrt(pixels)), 1 if self.norm == "linf" else 3)
        if self.norm == "l2":
            side += side % 2 == 0  # a bump of odd size has a middle
        side = min(side, height, width)
        return side, side

    def perturb(self, predict: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the images of largest margin met; see :meth:`Attack.perturb`.

        Raises:
            ValueError: for images whose size is not known when the graph is traced.
        """
        if None in x.shape[1:]:
            raise ValueError(
                f"The Square attack needs images of one known size, not {tuple(x.shape)}."
            )
        images = tf.reshape(x, [-1, *_as_image(tuple(x.shape[1:]))])

        def ask(images: Any) -> Any:
            return predict(tf.reshape(images, [-1, *x.shape[1:]]))

        found = self._search(ask, images, y, seed)
        return tf.stop_gradient(tf.reshape(found, [-1, *x.shape[1:]]))

    def _stages(self, height: int, width: int) -> tuple[list[tuple[int, int]], Any]:
        """The sizes of windows, falling, and the number of the query that ends each."""
        windows = [self.window(i, height, width) for i in range(self.queries)]
        sizes = sorted(set(windows), reverse=True)
        return sizes, np.cumsum([windows.count(size) for size in sizes]).astype(np.int32)

    def _search(self, ask: Predict, x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # Loops of its own: there is no gradient to climb.
        wrong = misclassified(y, ask(x))
        best = tf.where(wide(wrong, x), x, START[self.norm](x, self.epsilon, seed))
        logits = ask(best)
        sizes, ends = self._stages(x.shape[1], x.shape[2])
        move = MOVE[self.norm](x, self.epsilon, sizes)

        def stage(k: Any, i: Any, best: Any, value: Any, broken: Any) -> tuple[Any, ...]:
            """All queries with windows of one size, about the samples that still hold."""
            where = tf.where(~broken)
            x_left, y_left, *found = (tf.gather(z, where[:, 0]) for z in (x, y, best, value))

            def query(i: Any, old: Any, value: Any, broken: Any) -> tuple[Any, ...]:
                moved = move(k, x_left, old, tf.random.fold_in(seed, i))
                logits = ask(moved)
                raised = margin(y_left, logits)
                # What is broken may move on, but only to where the margin is larger still.
                better = raised > value
                broken |= better & misclassified(y_left, logits)
                best = tf.where(wide(better, x), moved, old)
                return i + 1, best, tf.maximum(raised, value), broken

            end = tf.gather(ends, k)

            def going(i: Any, *found: Any) -> Any:
                return (i < end) & ~tf.reduce_all(found[2])

            _, *found = tf.while_loop(going, query, (i, *found, tf.zeros_like(y_left, tf.bool)))
            old = (best, value, broken)
            new = map(tf.tensor_scatter_nd_update, old, [where] * 3, found)
            return (k + 1, end, *new)

        def unfinished(k: Any, *state: Any) -> Any:
            return (k < len(sizes)) & ~tf.reduce_all(state[3])

        # The start was the first query.
        found = (best, margin(y, logits), misclassified(y, logits))
        return tf.while_loop(unfinished, stage, (tf.constant(0), tf.constant(1), *found))[2]


def _as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels that a sample's shape is read as."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return shape[0], shape[1], 1
    return 1, math.prod(shape), 1


def _signs(uniform: Any) -> Any:
    return tf.where(uniform < 0.5, -1.0, 1.0)


def _stripes(x: Any, epsilon: float, seed: Any) -> Any:
    """The start in the Linf ball: columns of random sign."""
    _, _, width, channels = x.shape
    signs = _signs(tf.random.stateless_uniform([tf.shape(x)[0], 1, width, channels], seed))
    return project(x + epsilon * signs, x, "linf", epsilon)


def _bumps(x: Any, epsilon: float, seed: Any) -> Any:
    """The start in the L2 ball: a bump of random sign and direction on every tile."""
    height, width, channels = x.shape[1:]
    tile = max(1, (width if height == 1 else min(height, width)) // TILES)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    shape = [tf.shape(x)[0], -(-height // tile), -(-width // tile), 1 + channels]
    drawn = tf.random.stateless_uniform(shape, seed)
    drawn = tf.gather(tf.gather(drawn, rows[:, 0] // tile, axis=1), columns // tile, axis=2)
    forms = bumps(min(height, tile), tile)[:, rows % tile, columns % tile, None]
    change = tf.where(drawn[..., :1] < 0.5, *forms) * _signs(drawn[..., 1:])
    change *= tf.math.divide_no_nan(epsilon, lengths(change, axes=[1, 2, 3]))
    return project(x + change, x, "l2", epsilon)


def _squares(x: Any, epsilon: float, sizes: list[tuple[int, int]]) -> Any:
    """The move in the Linf ball: in one square every channel goes to its bound."""
    channels = x.shape[-1]

    def move(k: Any, x: Any, old: Any, seed: Any) -> Any:
        drawn = tf.random.stateless_uniform([tf.shape(x)[0], 2 + channels], seed)
        rows, columns = _from_corner(x, tf.gather(sizes, k), drawn[:, :2])
        signs = _signs(drawn[:, None, None, 2:])
        inside = _within(rows, columns, tf.gather(sizes, k))
        return project(tf.where(inside, x + epsilon * signs, old), x, "linf", epsilon)

    return move


def _spending(x: Any, epsilon: float, sizes: list[tuple[int, int]]) -> Any:
    """The move in the L2 ball (Algorithm 4): one square takes what another one spends.

    A bump is added to the change within the first square, and the change there grows to
    what both squares had, together with what the image has left of epsilon.
    """
    height, width, channels = x.shape[1:]
    forms = np.zeros([len(sizes), 2, height * width], np.float32)
    for form, (a, b) in zip(forms, sizes, strict=True):
        form.reshape(2, height, width)[:, :a, :b] = bumps(a, b)

    def move(k: Any, x: Any, old: Any, seed: Any) -> Any:
        drawn = tf.random.stateless_uniform([tf.shape(x)[0], 5 + channels], seed)
        size = tf.gather(sizes, k)
        rows, columns = _from_corner(x, size, drawn[:, :2])
        inside = _within(rows, columns, size)
        both = inside | _within(*_from_corner(x, size, drawn[:, 2:4]), size)
        form = tf.gather(forms, k)
        places = tf.where(inside, rows * width + columns, 0)
        lying = drawn[:, None, None, 4:5] < 0.5
        bump = tf.where(lying, tf.gather(form[0], places), tf.gather(form[1], places))
        change = old - x
        taken = tf.where(inside, change, 0.0)
        fresh = bump * _signs(drawn[:, None, None, 5:])
        fresh += tf.math.divide_no_nan(taken, lengths(taken, axes=[1, 2, 3]))
        fresh = tf.where(inside, fresh, 0.0)
        squares = tf.square(change)
        spent = tf.reduce_sum(tf.where(both, squares, 0.0), [1, 2], keepdims=True)
        left = epsilon**2 - tf.reduce_sum(squares, [1, 2, 3], keepdims=True)
        length = tf.sqrt(spent + tf.maximum(0.0, left) / channels)
        fresh *= tf.math.divide_no_nan(length, lengths(fresh, axes=[1, 2]))
        return project(x + fresh + tf.where(both, 0.0, change), x, "l2", epsilon)

    return move


def _from_corner(x: Any, size: Any, uniform: Any) -> tuple[Any, Any]:
    """Rows and columns of an image, counted from the corner of a random window."""
    height, width = x.shape[1:3]
    places = tf.cast([height, width] - size + 1, tf.float32)
    corner = tf.cast(uniform * places, tf.int32)[:, None, None, :, None]
    rows = np.arange(height, dtype=np.int32)[:, None, None] - corner[..., 0, :]
    return rows, np.arange(width, dtype=np.int32)[:, None] - corner[..., 1, :]


def _within(rows: Any, columns: Any, size: Any) -> Any:
    """[batch, height, width, 1] booleans, true in a window of this size."""
    return (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])


def bumps(height: int, width: int) -> np.ndarray[Any, Any]:
    """Return a peak and a trough above each other and beside each other (section 4.3).

    Args:
        height: of both together, in pixels.
        width: of both together, in pixels.

    Returns:
        [2, height, width] float32, each of length 1. What is one pixel high has only the
        second form.

    Example:
        >>> bumps(1, 4)[1].round(2).tolist()
        [[0.14, 0.69, -0.14, -0.69]]
    """
    beside = _halves(height, width)
    forms = np.stack([_halves(width, height).T if height > 1 else beside, beside])
    return (forms / np.linalg.norm(forms, axis=(1, 2), keepdims=True)).astype(np.float32)


def _halves(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.concatenate(
        [_peak(height, width // 2), -_peak(height, width - width // 2)], axis=1
    )  # fmt: skip


def _peak(height: int, width: int) -> np.ndarray[Any, Any]:
    """Rectangles about the middle on each other, that of radius k - 1 of height 1 / k^2."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    radius = np.maximum(abs(rows - height // 2), abs(columns - width // 2))
    every = np.arange(max(height, width) // 2 + 1)
    return np.sum((radius[..., None] <= every) / (every + 1.0) ** 2, axis=-1)


START = {"linf": _stripes, "l2": _bumps}
MOVE = {"linf": _squares, "l2": _spending}
