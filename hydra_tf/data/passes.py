"""Passes over training examples: pure functions of (seed, number of the pass, position in it).

Nothing here keeps state, so that a run can be resumed in the middle of any pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hydra_tf.core.lazy import tf
from hydra_tf.data.source import Example, Source
from hydra_tf.data.unreadable import OTHER_WORKER_LABEL

# tf.data uses these two numbers when only an operation seed is set. With them, passes have the
# order of Dataset.shuffle(reshuffle_each_iteration=True), which published results depend on.
_STREAM, _SEEDS = 87654321, 2**31 - 1


def random_pair(stream: tf.Tensor, n: int | tf.Tensor) -> tf.Tensor:
    """Return the n-th pair of numbers of a random stream, without drawing the previous ones.

    The stream is Philox (Salmon et al., SC 2011), in the order of ``Dataset.random`` and of the
    seeds of ``Dataset.shuffle``.

    Args:
        stream: int64 [2], at least 0, identifies the stream.
        n: index of the pair, a whole number or scalar tensor.

    Returns:
        int64 [2], uniform in [0, 2^32).

    Example:
        >>> [random_pair([3, 4], n).numpy().tolist() for n in range(2)]
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


def shuffled(
    examples: tf.data.Dataset, buffer: int | tf.Tensor, seeds: tf.Tensor
) -> tf.data.Dataset:
    """Return examples in an order that depends on `seeds` alone.

    ``Dataset.shuffle`` accepts one number only, and adds the global seed of TensorFlow.

    Args:
        examples: any dataset.
        buffer: number of examples from which the next one is chosen.
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
    """The training examples of a source, in another order in every pass.

    Args:
        source: the data set.
        size: number of training examples.
        seed: seed of the order and the random crops.
        stream: number of the random stream: 0 for labelled images, 1 for extra images.
        random_crops: whether decoded images are cropped at random.
        decodes: (number of the pass, position in it) -> whether this worker decodes the image;
            others are black with the label OTHER_WORKER_LABEL. None decodes all images.
    """

    source: Source
    size: int
    seed: int
    stream: int = 0
    random_crops: bool = True
    decodes: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None

    def seeds(self, n: int | tf.Tensor) -> tf.Tensor:
        """Return int64 [2], the seeds of pass `n`."""
        return random_pair([_STREAM + self.stream, self.seed % _SEEDS], n)

    def examples(self, n: int | tf.Tensor, first: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Return the examples of pass `n` from position `first` on.

        Examples before that position are skipped without decoding them.

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
        decode, decodes = source.decode, self.decodes
        if decode is None:
            return records
        crop_stream = tf.reverse(seeds, [0])  # not the stream of the batches' augmentation
        positions = tf.data.Dataset.range(tf.cast(first, tf.int64), self.size)

        def decode_at(record: tf.Tensor, position: tf.Tensor) -> Example:
            seed = random_pair(crop_stream, position) if self.random_crops else None
            read = functools.partial(decode, record, seed)
            if decodes is None:
                return read()
            return tf.cond(decodes(n, position), read, lambda: placeholder)

        placeholder = (
            None if decodes is None else _placeholder(source.train.map(lambda r: decode(r, None)))
        )
        return decode_in_parallel(tf.data.Dataset.zip((records, positions)), decode_at, source)

    def endless(self, position: int | tf.Tensor) -> tf.data.Dataset:
        """Return the examples of one pass after another, from `position` on.

        Args:
            position: number of examples to skip, over all passes.
        """
        position = tf.cast(position, tf.int64)
        start, within = position // self.size, position % self.size

        def examples_of(n: tf.Tensor) -> tf.data.Dataset:
            return self.examples(n, tf.where(n == start, within, 0))

        return tf.data.Dataset.range(start, tf.int64.max).flat_map(examples_of)


def _placeholder(examples: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the image and label that replace an image that another worker decodes."""
    image, label = examples.element_spec
    black = np.zeros(image.shape, image.dtype.as_numpy_dtype)
    return black, np.asarray(OTHER_WORKER_LABEL, label.dtype.as_numpy_dtype)


def decode_in_parallel(
    records: tf.data.Dataset, decode: Callable[..., Example], source: Source
) -> tf.data.Dataset:
    """Decode in parallel and in order; after the last example, warn of unreadable images.

    Args:
        records: the arguments of `decode`.
        decode: record -> (image, label).
        source: the data set of the records.
    """
    examples = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if source.unreadable is None:
        return examples
    # An empty dataset, which is read after the last example.
    warning = tf.data.Dataset.from_generator(
        source.unreadable.warn, output_signature=examples.element_spec
    )
    return examples.concatenate(warning)
