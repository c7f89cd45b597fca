"""Batches of float32 images in [0, 1] and int32 labels, made of the examples of a source.

Images stay as they are held, bytes as a rule, until the last function on the batch, or until
they are on the device if that is asked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from hydra_tf.core.lazy import tf
from hydra_tf.core.pixels import unit_floats
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.decoding import replace_unreadable
from hydra_tf.data.extra_images import spread
from hydra_tf.data.passes import Passes, decoded, pair
from hydra_tf.data.source import Source
from hydra_tf.data.worker_shares import OwnRows


def fixed(source: Source, examples: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Return batches in a fixed order, for validation and test.

    Args:
        source: what the examples belong to.
        examples: one of its splits.
        batch_size: images per batch.
    """
    count = examples.cardinality()
    if source.decode is not None:
        examples = decoded(examples, lambda record: source.decode(record, None), source)
        examples = examples.apply(tf.data.experimental.assert_cardinality(count))
    batches = examples.batch(batch_size)

    def finish(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if source.decode is not None:
            images, labels = replace_unreadable(images, labels)
        return unit_floats(images), tf.cast(labels, tf.int32)

    return prefetched(batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE))


@dataclass(frozen=True)
class Training:
    """The training batches of a run, pass by pass.

    Args:
        main: the labelled examples, which give a pass its length.
        batch_size: images per batch, extra ones included.
        drop_remainder: whether a last batch that is not full is left out.
        augment: function of (images, seed), or None.
        extra: the extra examples, if there are any.
        extra_count: how many of each batch are extra ones.
        as_bytes: whether 8-bit images stay uint8 in [0, 255], if `augment` leaves them so.

    Raises:
        ValueError: when a pass would have no batch.
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
                f"{self.main.size} training images; choose a smaller one."
            )

    @property
    def steps(self) -> int:
        """Number of batches of a pass."""
        per_batch = self.batch_size - self.extra_count
        rest = 0 if self.drop_remainder else per_batch - 1
        return (self.main.size + rest) // per_batch

    @property
    def last_batch(self) -> int:
        """Number of images of the last batch of a pass."""
        before = (self.steps - 1) * (self.batch_size - self.extra_count)
        return min(self.batch_size, self.main.size - before + self.extra_count)

    def of_worker(self, worker: int, workers: int) -> Training:
        """Return the same, only the images of one worker's share decoded.

        Args:
            worker: its number.
            workers: how many there are.
        """
        labelled = self.batch_size - self.extra_count
        own = OwnRows(worker, workers, self.main.size, labelled, self.steps, self.extra_count)
        if workers == 1:
            return self
        main, extra = replace(self.main, own=lambda n, place: own.of_labelled(place)), self.extra
        if extra is not None:
            size = extra.size
            extra = replace(extra, own=lambda n, place: own.of_extra(n * size + place))
        return replace(self, main=main, extra=extra)

    def one_pass(self, n: Any, first_step: Any = 0) -> tf.data.Dataset:
        """Return the batches of pass `n` from `first_step` on.

        Args:
            n: number of the pass, a whole number or scalar tensor.
            first_step: number of batches to skip.
        """
        n, first_step = tf.cast(n, tf.int64), tf.cast(first_step, tf.int64)
        labelled = self.batch_size - self.extra_count
        parts = [
            self.main.examples(n, first_step * labelled).batch(
                labelled, drop_remainder=self.drop_remainder
            )
        ]
        if self.extra is not None:
            # Where the pass before has stopped: no extra image waits for ever.
            place = (n * self.steps + first_step) * self.extra_count
            more = self.extra.endless(place).batch(self.extra_count, drop_remainder=True)
            parts.append(more)
        seeds = self.main.seeds(n)

        def finish(*batches: Any) -> tuple[tf.Tensor, tf.Tensor]:
            read = [self._read(batch, i) for i, batch in enumerate(batches[:-1])]
            dtypes = {images.dtype for images, _ in read}
            keeps = self.augment is None or getattr(self.augment, "keeps_bytes", False)
            if not (self.as_bytes and keeps and len(dtypes) == 1):
                read = [(unit_floats(images), labels) for images, labels in read]
            images, labels = read[0] if len(read) == 1 else _mixed(read)
            if self.augment is not None:
                # Not the step alone: that would draw the same crops in every pass.
                images = self.augment(images, pair(seeds, batches[-1]))
            return images, labels

        # The steps come last: the first part is to be asked beyond its end, where it reports.
        parts.append(tf.data.Dataset.range(first_step, self.steps))
        return tf.data.Dataset.zip(tuple(parts)).map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    def _read(self, batch: Any, part: int) -> tuple[tf.Tensor, tf.Tensor]:
        source = (self.main if part == 0 else self.extra).source  # type: ignore[union-attr]
        if source.look_up is not None:
            batch = source.look_up(batch)
        images, labels = batch
        if source.decode is not None:
            images, labels = replace_unreadable(images, labels)
        return images, tf.cast(labels, tf.int32)

    def from_pass(self, first_pass: int = 0, first_step: int = 0) -> tf.data.Dataset:
        """Return a dataset of which every iteration is the next pass.

        Args:
            first_pass: number of the pass to start with.
            first_step: number of its batches to skip; the length of an iteration is then not
                the same for all, and its cardinality unknown.

        Raises:
            ValueError: when that is all of them.
        """
        if first_step >= self.steps:
            raise ValueError(
                f"first_step={first_step} is beyond the {self.steps} batches of a pass; start "
                "with the next pass."
            )
        numbers = itertools.count(first_pass)
        # A Python function and not a variable, which a strategy would copy to its replicas.
        number = tf.data.Dataset.from_generator(
            lambda: iter([next(numbers)]), output_signature=tf.TensorSpec([], tf.int64)
        )
        batches = number.flat_map(
            lambda n: self.one_pass(n, tf.where(n == first_pass, tf.cast(first_step, tf.int64), 0))
        )
        if first_step == 0:
            batches = batches.apply(tf.data.experimental.assert_cardinality(self.steps))
        return prefetched(batches)


def prefetched(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetch, and let workers of tf.distribute share batches whatever the source is.

    Args:
        batches: any dataset.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _mixed(read: list[tuple[tf.Tensor, tf.Tensor]]) -> tuple[tf.Tensor, tf.Tensor]:
    """One batch of the two kinds, either spread evenly over it."""
    (images, labels), (more, pseudo) = read
    order = spread((tf.size(labels), tf.size(pseudo)))
    size = images.shape[0] and more.shape[0] and images.shape[0] + more.shape[0]
    mixed = tf.gather(tf.concat([images, more], axis=0), order)
    targets = tf.gather(tf.concat([labels, pseudo], axis=0), order)
    return tf.ensure_shape(mixed, [size, *images.shape[1:]]), tf.ensure_shape(targets, [size])
