"""Exact top-k selection by magnitude, and the straight-through gradient of a mask."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Sequence

from hydra_tf.core.lazy import tf

# Digits of the 31 bits of a float's magnitude, highest first: (shift, number of values). The first
# has more values, so that few candidates remain.
_DIGITS = ((18, 1 << 13), (9, 1 << 9), (0, 1 << 9))
_MAGNITUDE = (1 << 31) - 1  # all bits but the sign
_ROW = 200  # a byte can hold the sum of a row of this many bits
_IMPOSSIBLE = (
    "A mask must keep between 1 and all weights of its layer; set a density in (0, 1] with "
    "hydra_tf.set_density."
)


def kept_count(density: float, size: int) -> int:
    """Return how many of `size` weights a density keeps: max(1, round(density * size)).

    Raises:
        ValueError: for a density outside (0, 1].
        TypeError: for a density that is not a number.

    Example:
        >>> kept_count(0.01, 250), kept_count(0.5, 10)
        (2, 5)
    """
    value: object = density
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"The density is the share of weights to keep, a number in (0, 1], not {density!r}."
        )
    if not 0.0 < density <= 1.0:
        raise ValueError(
            f"The density is the share of weights to keep and must lie in (0, 1], not {density}."
        )
    return max(1, round(density * size))


def count_kept(mask: tf.Tensor) -> tf.Tensor:
    """Return how many weights a mask keeps, a scalar int32 tensor.

    Args:
        mask: booleans of any shape.

    Example:
        >>> int(count_kept([[True, False], [True, True]]))
        3
    """
    bits = tf.cast(tf.reshape(mask, [-1]), tf.uint8)
    # Rows are summed as bytes, which is several times faster than a sum of integers.
    whole = tf.size(bits) // _ROW * _ROW
    rows = tf.reduce_sum(tf.reshape(bits[:whole], [-1, _ROW]), 1)
    return tf.reduce_sum(tf.cast(tf.concat([rows, bits[whole:]], 0), tf.int32))


def _kth_digit(
    layers: Sequence[tf.Tensor],
    values: int,
    kept: tf.Tensor | int,
    prices: Sequence[int] | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the digit of the `kept`-th largest number, and how many with that digit are kept.

    Args:
        layers: digits of the numbers of each layer.
        values: number of different digits.
        kept: position of the number.
        prices: how often each number of a layer counts; once when left out.
    """
    counted = [
        tf.raw_ops.DenseBincount(
            input=digits, size=values, weights=tf.zeros([0], tf.int32), binary_output=False
        )
        for digits in layers
    ]
    if prices is not None:
        counted = [price * own for price, own in zip(prices, counted, strict=True)]
    counts = tf.add_n(counted)
    at_least = tf.cumsum(counts, reverse=True)
    digit = tf.reduce_sum(tf.cast(at_least >= kept, tf.int32)) - 1
    return digit, kept - (at_least[digit] - counts[digit])


def _threshold(
    layers: Sequence[tf.Tensor], kept: int | tf.Tensor, prices: Sequence[int] | None
) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Return the `kept`-th largest magnitude, where its equals are, and how many of them are kept.

    Args:
        layers: :func:`magnitudes` of each layer.
        kept: position of the magnitude.
        prices: how often each magnitude of a layer counts; once when left out.
    """
    candidates, threshold = list(layers), 0
    indices: list[tf.Tensor | None] = [None] * len(candidates)  # of the candidates, ascending
    for shift, values in _DIGITS:
        digits = [tf.bitwise.right_shift(found, shift) for found in candidates]
        if shift != _DIGITS[0][0]:  # the first digit has no bits above it
            digits = [tf.bitwise.bitwise_and(digit, values - 1) for digit in digits]
        digit, kept = _kth_digit(digits, values, kept, prices)
        threshold += digit * (1 << shift)
        for i, own in enumerate(digits):
            found = tf.where(tf.equal(own, digit))[:, 0]
            before = indices[i]
            indices[i] = found if before is None else tf.gather(before, found)
            candidates[i] = tf.gather(candidates[i], found)
    return threshold, indices, kept


def topk_mask(scores: tf.Tensor, kept: int | tf.Tensor) -> tf.Tensor:
    """Return ones for the `kept` scores of largest magnitude; ties go to the lowest index.

    See :func:`topk_chosen` for arguments and errors.

    Returns:
        float32 tensor of the shape of `scores` with exactly `kept` ones, zeros elsewhere.

    Example:
        >>> topk_mask([[0.5, -3.0], [2.0, 0.1]], 2).numpy().tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    return tf.cast(topk_chosen(scores, kept), tf.float32)


def topk_chosen(scores: tf.Tensor, kept: int | tf.Tensor) -> tf.Tensor:
    """Return where the `kept` scores of largest magnitude are; ties go to the lowest index.

    The bit patterns of non-negative float32 numbers have the order of the numbers. Counting
    their digits, highest first, therefore finds the k-th largest exactly, in linear time and
    without sorting; after the first digit few candidates remain.

    Args:
        scores: float32 tensor of any shape.
        kept: number of ones in the mask, between 1 and the number of scores: a whole number, or
            a scalar tensor that a graph reads whenever it runs.

    Returns:
        Booleans of the shape of `scores`, exactly `kept` of them true.

    Raises:
        ValueError: for `kept` below 1 or above the number of scores.
        TypeError: for `kept` that is not a whole number.
        tf.errors.InvalidArgumentError: for such a tensor, when its graph runs.

    Example:
        >>> topk_chosen([[0.5, -3.0], [2.0, 0.1]], 2).numpy().tolist()
        [[False, True], [True, False]]
    """
    scores = tf.convert_to_tensor(scores, tf.float32)
    kept = _whole(kept)
    if not isinstance(kept, int):
        chosen = _shared_selection()(tf.reshape(scores, [-1]), kept)
        known = scores.shape.is_fully_defined()
        return tf.reshape(chosen, scores.shape if known else tf.shape(scores))
    size = scores.shape.num_elements()
    if size is not None and not 1 <= kept <= size:
        raise ValueError(f"Of {size} scores between 1 and {size} can be kept, not {kept}.")
    return tf.ones_like(scores, tf.bool) if kept == size else _largest(scores, kept)


@functools.cache
def _shared_selection() -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return the selection of a graph, one function for all layers.

    A network of fifty layers would otherwise need longer to trace its masks than its layers. It
    is not inlined, which would copy it for every layer again.
    """

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )
    def select(scores: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        size = tf.size(scores)
        possible = tf.debugging.Assert((kept >= 1) & (kept <= size), [_IMPOSSIBLE])
        with tf.control_dependencies([possible]):
            return tf.cond(
                kept < size,
                lambda: _largest(scores, kept),
                lambda: tf.ones_like(scores, tf.bool),
            )

    return select


def _whole(kept: object) -> int | tf.Tensor:
    """Return a number of weights as an integer, or as an int32 scalar if only a graph knows it."""
    if not isinstance(kept, bool) and isinstance(kept, numbers.Integral):
        return int(kept)
    number = tf.convert_to_tensor(kept)
    if not number.dtype.is_integer or number.shape.rank != 0:
        raise TypeError(f"kept must be a whole number or a scalar tensor of one, not {kept!r}.")
    return tf.cast(number, tf.int32) if tf.is_symbolic_tensor(number) else int(number)


def magnitudes(scores: tf.Tensor) -> tf.Tensor:
    """Return the bits of the magnitudes of scores, flat int32, which have the order of the numbers.

    Example:
        >>> magnitudes([0.0, -1.0]).numpy().tolist()
        [0, 1065353216]
    """
    bits = tf.bitcast(tf.reshape(tf.convert_to_tensor(scores, tf.float32), [-1]), tf.int32)
    return tf.bitwise.bitwise_and(bits, _MAGNITUDE)


def _largest(scores: tf.Tensor, kept: int | tf.Tensor) -> tf.Tensor:
    """Return where the `kept` scores of largest magnitude are, fewer than all."""
    return tf.reshape(largest_together([magnitudes(scores)], kept)[0], tf.shape(scores))


def largest_together(
    layers: Sequence[tf.Tensor],
    kept: int | tf.Tensor,
    prices: Sequence[int] | None = None,
    one_each: bool = False,
) -> list[tf.Tensor]:
    """Return where the `kept` largest of the magnitudes of several layers are.

    Ties go to the first layer, then to the lowest index. The layers are not concatenated. With
    prices, `kept` is a budget: magnitudes are chosen, the largest first, up to the first that the
    rest of the budget does not suffice for; of magnitudes equal to that one, every layer gets as
    many as the rest suffices for.

    Args:
        layers: :func:`magnitudes` of each layer.
        kept: number of magnitudes, between 1 and all of them; a budget of at least 1 with prices.
        prices: price of a magnitude of each layer; all cost the same when left out.
        one_each: whether each layer keeps its largest magnitude in any case; without prices, and
            with `kept` of at least the number of layers.

    Returns:
        Flat booleans for each layer.

    Example:
        >>> layers = [magnitudes([1.0, 3.0]), magnitudes([2.0, 2.0])]
        >>> [chosen.numpy().tolist() for chosen in largest_together(layers, 2)]
        [[False, True], [True, False]]
        >>> layers = [magnitudes([1.0, 3.0]), magnitudes([4.0, 4.0])]
        >>> chosen = largest_together(layers, 2, one_each=True)
        >>> [mask.numpy().tolist() for mask in chosen]
        [[False, True], [True, False]]
        >>> layers = [magnitudes([1.0, 3.0]), magnitudes([2.0, 2.0])]
        >>> chosen = largest_together(layers, 7, prices=[4, 2])  # 3 for 4; one of the twos
        >>> [mask.numpy().tolist() for mask in chosen]
        [[False, True], [True, False]]
    """
    needed, unused = kept, 0  # of the numbers that are counted, those beyond the budget
    if prices is not None:
        # The threshold is the first magnitude that would exceed the budget, or the smallest one.
        sizes = [tf.size(bits) for bits in layers]
        all_of_them = tf.add_n([price * n for price, n in zip(prices, sizes, strict=True)])
        needed = tf.minimum(kept + 1, all_of_them)
        unused = kept - needed
    if one_each:
        # Left out of the counts by a price of -1, and chosen at the end.
        best = [tf.argmax(layer, output_type=tf.int32) for layer in layers]
        maxima = tf.stack([tf.gather(*pair) for pair in zip(layers, best, strict=True)])
        counted, counts = [*layers, maxima], [1] * len(layers) + [-1]
        threshold, ties, needed = _threshold(counted, kept - len(layers), counts)
    else:
        threshold, ties, needed = _threshold(layers, needed, prices)
    chosen, left = [], needed + unused
    for i, layer in enumerate(layers):
        # Those that equal the threshold get what is left, in order.
        equal, price = ties[i], prices[i] if prices else 1
        if one_each:
            equal = equal[tf.cast(maxima[i] == threshold, tf.int32) :]  # the first is `best[i]`
        taken = tf.minimum(left if price == 1 else left // price, tf.size(equal))
        first = equal[:taken]
        if one_each:
            first = tf.concat([first, tf.cast(best[i : i + 1], first.dtype)], 0)
        ones = tf.ones_like(first, tf.bool)
        chosen.append(tf.tensor_scatter_nd_update(layer > threshold, first[:, None], ones))
        left -= price * taken
    return chosen


def masked_kernel(kernel: tf.Tensor, scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return ``kernel * mask`` with the gradients of HYDRA (arXiv 2002.10509, section 3.1).

    The mask is a step function of the scores. The straight-through backward pass replaces it by
    their magnitude: for an upstream gradient ``g``, the gradient of the kernel is ``g * mask``
    and that of the scores ``g * kernel * sign(scores)``, also for pruned weights, so that they
    can be kept again.

    Args:
        kernel: weights in the layer's compute dtype.
        scores: float32 importance scores, of the kernel's shape.
        mask: booleans, or zeros and ones, of the kernel's shape.

    Returns:
        Tensor of the kernel's shape and dtype.

    Example:
        >>> import tensorflow as tf
        >>> masked_kernel(tf.constant([2.0, 3.0]), tf.constant([1.0, 0.1]),
        ...               tf.constant([True, False])).numpy().tolist()
        [2.0, 0.0]
    """

    @tf.custom_gradient
    def forward(
        kernel: tf.Tensor, scores: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., object]]:
        mask = tf.cast(mask, tf.bool)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
            # In float32, because the product of two small float16 numbers would be 0.
            product = tf.cast(upstream, scores.dtype) * tf.cast(kernel, scores.dtype)
            masked = tf.where(mask, upstream, tf.zeros([], upstream.dtype))
            # Otherwise a graph computes the signs first and stores them during the whole step.
            with tf.control_dependencies([upstream]):
                signs = tf.sign(scores)
            return masked, product * signs, None

        return tf.where(mask, kernel, tf.zeros([], kernel.dtype)), backward

    result: tf.Tensor = forward(kernel, scores, mask)
    return result
