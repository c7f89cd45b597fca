"""Passes over training examples: pure functions of (seed, number of the pass, place in it).

Nothing here remembers anything, so that a run can be taken up in the middle of any pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.data.decoding import ELSEWHERE
from hydra_tf.data.source import Source

# With the two numbers that tf.data takes for an operation's seed alone, the passes come in the
# order of Dataset.shuffle(reshuffle_each_iteration=True), which published results were made with.
_STREAM, _SEEDS = 87654321, 2**31 - 1


def pair(stream: Any, n: Any) -> tf.Tensor:
    """Return the n-th pair of numbers of a random stream, without drawing those before it.

    The stream is Philox (Salmon et al., SC 2011) in the order in which ``Dataset.random`` and
    the seeds of ``Dataset.shuffle`` come.

    Args:
        stream: int64 [2], at least 0, naming the stream.
        n: index of the pair, a whole number or scalar tensor.

    Returns:
        int64 [2], uniform in [0, 2^32).

    Example:
        >>> [pair([3, 4], n).numpy().tolist() for n in range(2)]
        [[1995848961, 2377083460], [192503441, 2649255194]]
    """
    stream, n = tf.cast(stream, tf.uint64), tf.cast(n, tf.uint64)
    block = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[4],
        key=stream[:1],
        counter=tf.stack([n // 2, stream[1]]),
        alg=1,  # Philox
        dtype=tf.uint32,
    )
    return tf.reshape(tf.cast(block, tf.int64), [2, 2])[tf.cast(n % 2, tf.int32)]


def shuffled(examples: tf.data.Dataset, buffer: Any, seeds: tf.Tensor) -> tf.data.Dataset:
    """Return examples in an order that depends on `seeds` alone.

    ``Dataset.shuffle`` takes one number, and mixes in the global seed of TensorFlow.

    Args:
        examples: any dataset.
        buffer: number of examples among which the next one is chosen.
        seeds: int64 [2].

    Example:
        >>> order = shuffled(tf.data.Dataset.range(5), 5, tf.constant([1, 2], tf.int64))
        >>> sorted(order.as_numpy_iterator()) == [0, 1, 2, 3, 4]
        True
    """
    specs = tf.nest.flatten(examples.element_spec)
    variant = tf.raw_ops.ShuffleDatasetV3(
        input_dataset=tf.data.experimental.to_variant(examples),
        buffer_size=tf.cast(buffer, tf.int64),
        seed=seeds[0],
        seed2=seeds[1],
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        reshuffle_each_iteration=False,
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
    )
    return tf.data.experimental.from_variant(variant, examples.element_spec)


@dataclass(frozen=True)
class Passes:
    """The training examples of a source, in a new order in every pass.

    Args:
        source: what a data set handed over.
        size: number of training examples.
        seed: seed of order and cuts.
        lane: 0 for a run's own data, 1 for extra data, which draw other numbers.
        random: whether images that are decoded are cut at random.
        own: (number of the pass, place in it) -> whether to decode the image; the others are
            black, their label ELSEWHERE. None decodes all.
    """

    source: Source
    size: int
    seed: int
    lane: int = 0
    random: bool = True
    own: Callable[[Any, Any], Any] | None = None

    def seeds(self, n: Any) -> tf.Tensor:
        """Return int64 [2], the seeds of pass `n`."""
        return pair([_STREAM + self.lane, self.seed % _SEEDS], n)

    def examples(self, n: Any, first: Any = 0) -> tf.data.Dataset:
        """Return the examples of pass `n` from place `first` on.

        What lies before is skipped while it is still encoded.

        Args:
            n: number of the pass, a whole number or scalar tensor.
            first: number of examples to skip.
        """
        source, seeds = self.source, self.seeds(n)
        if source.order is None:
            records = shuffled(source.train, self.size, seeds)
        else:
            records = source.order(seeds)
        records = records.skip(tf.cast(first, tf.int64))
        decode = source.decode
        if decode is None:
            return records
        cuts = tf.reverse(seeds, [0])  # another stream than that of the batches' augmentation
        places = tf.data.Dataset.range(tf.cast(first, tf.int64), self.size)

        def decode_own(record: Any, place: tf.Tensor) -> Any:
            seed = pair(cuts, place) if self.random else None
            read = functools.partial(decode, record, seed)
            if self.own is None:
                return read()
            return tf.cond(self.own(n, place), read, lambda: black)

        black = (
            None if self.own is None else _elsewhere(source.train.map(lambda r: decode(r, None)))
        )
        return decoded(tf.data.Dataset.zip((records, places)), decode_own, source)

    def endless(self, place: Any) -> tf.data.Dataset:
        """Return the examples of one pass after another, from `place` on.

        Args:
            place: number of examples to skip, over all passes.
        """
        place = tf.cast(place, tf.int64)
        start, within = place // self.size, place % self.size

        def one(n: tf.Tensor) -> tf.data.Dataset:
            return self.examples(n, tf.where(n == start, within, 0))

        return tf.data.Dataset.range(start, tf.int64.max).flat_map(one)


def _elsewhere(examples: tf.data.Dataset) -> tuple[Any, Any]:
    """What stands for an image that another worker decodes, as numbers."""
    image, label = examples.element_spec
    black = np.zeros(image.shape, image.dtype.as_numpy_dtype)
    return black, np.asarray(ELSEWHERE, label.dtype.as_numpy_dtype)


def decoded(records: tf.data.Dataset, decode: Any, source: Source) -> tf.data.Dataset:
    """Decode in parallel, in order; report after the last one what could not be read.

    Args:
        records: what `decode` takes.
        decode: record -> (image, label).
        source: where they come from.
    """
    examples = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if source.unreadable is None:
        return examples
    # A dataset of nothing: it is asked when the examples are at their end.
    report = tf.data.Dataset.from_generator(
        source.unreadable.report, output_signature=examples.element_spec
    )
    return examples.concatenate(report)
