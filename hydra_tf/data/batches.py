"""Batches of float32 images in [0, 1] and int32 labels from the examples of a source.

Images usually stay uint8 until the last function on the batch or, with `as_bytes`, until they
are on the device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from hydra_tf.core.lazy import tf
from hydra_tf.core.pixels import unit_floats
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.extra_images import interleaved_order
from hydra_tf.data.passes import Passes, decode_in_parallel, random_pair
from hydra_tf.data.source import Example, Source
from hydra_tf.data.unreadable import replace_unreadable
from hydra_tf.data.worker_slices import WorkerSlice


def evaluation_batches(
    source: Source, examples: tf.data.Dataset, batch_size: int
) -> tf.data.Dataset:
    """Return batches in a fixed order, for validation and test.

    Args:
        source: the data set of the examples.
        examples: one of its splits.
        batch_size: images per batch.
    """
    count = examples.cardinality()
    if (decode := source.decode) is not None:
        examples = decode_in_parallel(examples, lambda record: decode(record, None), source)
        examples = examples.apply(tf.data.experimental.assert_cardinality(count))
    batches = examples.batch(batch_size)

    def finish(images: tf.Tensor, labels: tf.Tensor) -> Example:
        if source.decode is not None:
            images, labels = replace_unreadable(images, labels)
        return unit_floats(images), tf.cast(labels, tf.int32)

    return prefetch(batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE))


@dataclass(frozen=True)
class TrainingBatches:
    """The training batches of a run, pass by pass.

    Args:
        main: the labelled examples, which determine the length of a pass.
        batch_size: images per batch, extra ones included.
        drop_remainder: whether to drop a last batch that is not full.
        augment: function of (images, seed), or None.
        extra: the extra examples, or None.
        extra_count: number of extra images in each batch.
        as_bytes: whether 8-bit images stay uint8 in [0, 255], if `augment` preserves the type.

    Raises:
        ValueError: when a pass would have no batches.
    """

    main: Passes
    batch_size: int
    drop_remainder: bool = False
    augment: Augment | None = None
    extra: Passes | None = None
    extra_count: int = 0
    as_bytes: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(
                f"With drop_remainder, batch_size={self.batch_size} leaves no batch of the "
                f"{self.main.size} training images; choose a smaller batch_size."
            )

    @property
    def steps(self) -> int:
        """Number of batches in a pass."""
        per_batch = self.batch_size - self.extra_count
        rest = 0 if self.drop_remainder else per_batch - 1
        return (self.main.size + rest) // per_batch

    @property
    def last_batch(self) -> int:
        """Number of images in the last batch of a pass."""
        before = (self.steps - 1) * (self.batch_size - self.extra_count)
        return min(self.batch_size, self.main.size - before + self.extra_count)

    def for_worker(self, worker: int, workers: int) -> TrainingBatches:
        """Return the same batches, in which only the images of one worker's slice are decoded.

        Args:
            worker: number of the worker, from 0.
            workers: number of workers.
        """
        labelled = self.batch_size - self.extra_count
        rows = WorkerSlice(worker, workers, self.main.size, labelled, self.steps, self.extra_count)
        if workers == 1:
            return self
        main, extra = replace(self.main, decodes=lambda n, i: rows.has_labelled(i)), self.extra
        if extra is not None:
            size = extra.size
            extra = replace(extra, decodes=lambda n, i: rows.has_extra(n * size + i))
        return replace(self, main=main, extra=extra)

    def one_pass(self, n: int | tf.Tensor, first_step: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Return the batches of pass `n` from `first_step` on.

        Args:
            n: number of the pass, a whole number or scalar tensor.
            first_step: number of batches to skip.
        """
        n, first_step = tf.cast(n, tf.int64), tf.cast(first_step, tf.int64)
        labelled = self.batch_size - self.extra_count
        components = [
            self.main.examples(n, first_step * labelled).batch(
                labelled, drop_remainder=self.drop_remainder
            )
        ]
        if self.extra is not None:
            # Continue where the previous pass stopped, so that every extra image is used.
            position = (n * self.steps + first_step) * self.extra_count
            extra = self.extra.endless(position)
            components.append(extra.batch(self.extra_count, drop_remainder=True))
        seeds = self.main.seeds(n)

        def finish(*elements: tf.Tensor) -> Example:
            *batches, step = elements
            sources = (self.main, self.extra)
            examples = [_gather(p.source, b) for p, b in zip(sources, batches, strict=False) if p]
            dtypes = {images.dtype for images, _ in examples}
            keeps_bytes = self.augment is None or getattr(self.augment, "keeps_bytes", False)
            if not (self.as_bytes and keeps_bytes and len(dtypes) == 1):
                examples = [(unit_floats(images), labels) for images, labels in examples]
            images, labels = examples[0] if len(examples) == 1 else _interleave(*examples)
            if self.augment is not None:
                # The seeds of the pass, so that each pass draws other crops.
                images = self.augment(images, random_pair(seeds, step))
            return images, labels

        # Steps come last: zip then reads the labelled images up to the warning at their end.
        components.append(tf.data.Dataset.range(first_step, self.steps))
        zipped = tf.data.Dataset.zip(tuple(components))
        return zipped.map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    def from_pass(self, first_pass: int = 0, first_step: int = 0) -> tf.data.Dataset:
        """Return a dataset that yields the next pass in every iteration.

        Args:
            first_pass: number of the pass to start with.
            first_step: number of its batches to skip; the first iteration is then shorter than
                the others, and the cardinality unknown.

        Raises:
            ValueError: when the pass does not have that many batches.
        """
        if first_step >= self.steps:
            raise ValueError(
                f"first_step={first_step} is beyond the {self.steps} batches of a pass; start "
                "with the next pass."
            )
        numbers = itertools.count(first_pass)
        # A Python generator: a strategy would copy a variable to its replicas.
        number = tf.data.Dataset.from_generator(
            lambda: iter([next(numbers)]), output_signature=tf.TensorSpec([], tf.int64)
        )
        batches = number.flat_map(
            lambda n: self.one_pass(n, tf.where(n == first_pass, tf.cast(first_step, tf.int64), 0))
        )
        if first_step == 0:
            batches = batches.apply(tf.data.experimental.assert_cardinality(self.steps))
        return prefetch(batches)


def prefetch(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetch, and let tf.distribute split batches among workers for any source.

    Args:
        batches: any dataset.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _gather(source: Source, batch: tf.Tensor | Example) -> Example:
    """Return the images and int32 labels of a batch of the elements of a pass."""
    images, labels = batch if source.gather_batch is None else source.gather_batch(batch)
    if source.decode is not None:
        images, labels = replace_unreadable(images, labels)
    return images, tf.cast(labels, tf.int32)


def _interleave(labelled: Example, extra: Example) -> Example:
    """Return one batch in which both kinds of images are interleaved evenly."""
    (images, labels), (extra_images, extra_labels) = labelled, extra
    order = interleaved_order((tf.size(labels), tf.size(extra_labels)))
    sizes = images.shape[0], extra_images.shape[0]
    size = sum(sizes) if all(sizes) else None
    mixed = tf.gather(tf.concat([images, extra_images], axis=0), order)
    targets = tf.gather(tf.concat([labels, extra_labels], axis=0), order)
    return tf.ensure_shape(mixed, [size, *images.shape[1:]]), tf.ensure_shape(targets, [size])
