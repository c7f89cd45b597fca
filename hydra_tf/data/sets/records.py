"""Photographs that TensorFlow Datasets has prepared, read as a stream of bounded memory.

What is shuffled are the names of the files and, in a buffer of fixed length, encoded images.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import logging

from hydra_tf.core.lazy import tf
from hydra_tf.data.decoding import GONE, Decoder, Unreadable, attempt, check_size
from hydra_tf.data.passes import shuffled
from hydra_tf.data.sets.tfds import PreparedDataSet, prepared_builder
from hydra_tf.data.source import Source

# Files that are read at a time, in blocks of so many examples.
_FILES, _BLOCK = 16, 8


@dataclass(frozen=True)
class PreparedPhotographs(PreparedDataSet):
    """Base of the sets of photographs of all sizes; one subclass for each.

    Training images are cut at random, validation and test images at the centre; see
    :class:`hydra_tf.data.decoding.Decoder`. An image that cannot be decoded is replaced by the
    next good one of its batch, and records of a damaged file by good ones of the same split, of
    the same file if it has any; both are named in a warning at the end of the pass.

    Args:
        crop: pixels of random shift on top of the cut, see :class:`DataSet`.
        flip: mirror training images at random.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images, the last ones, kept for validation.
        size: height and width that images are resized to.
        buffer: number of encoded images among which the next one of a pass is chosen; about
            a tenth of a megabyte each.
    """

    flip: bool = True
    size: int = 224
    buffer: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)
        if self.buffer < 1:
            raise ValueError(f"buffer is a number of images, at least 1, not {self.buffer}.")

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`.

        Raises:
            FileNotFoundError: when it is not prepared, saying how to prepare it.
            ValueError: when it is prepared in another format than TFRecord.
        """
        builder = prepared_builder(self.full_name, self.data_dir)
        if (kind := builder.info.file_format.value) != "tfrecord":
            raise ValueError(
                f'The data set "{self.full_name}" is prepared as {kind} files, but is read from '
                "TFRecord files; prepare it in that format."
            )
        total = builder.info.splits["train"].num_examples
        train = total - max(1, round(total * self.validation_share))
        unreadable = Unreadable()
        return Source(
            train=_records(builder, f"train[:{train}]", unreadable),
            validation=_records(builder, f"train[{train}:]", unreadable),
            test=_records(builder, "validation", unreadable),
            num_classes=builder.info.features["label"].num_classes,
            augment=self.augmentation(),
            decode=_decode(builder.info.features, Decoder(self.size), unreadable),
            order=functools.partial(_order, builder, f"train[:{train}]", self.buffer, unreadable),
            unreadable=unreadable,
        )

    @property
    def full_name(self) -> str:
        """Name in TensorFlow Datasets, with its configuration."""
        return self.builder_name


def _files(builder: Any, split: str) -> tuple[Any, int]:
    """The files of a split with the stretch of each that counts, and the number of examples."""
    stretches = builder.info.splits[split].file_instructions
    table = (
        [str(stretch.filename) for stretch in stretches],
        np.array([stretch.skip for stretch in stretches]),
        np.array([stretch.take for stretch in stretches]),
    )
    return tf.data.Dataset.from_tensor_slices(table), sum(s.take for s in stretches)


def _good(name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    """The records of a stretch up to a wrong checksum, behind which nothing can be found."""
    # Asked first: errors that are ignored would hide that it is gone.
    there = tf.ensure_shape(tf.numpy_function(_opens, [name], tf.bool), [])
    with tf.control_dependencies([tf.debugging.Assert(there, [GONE])]):
        records = tf.data.TFRecordDataset(tf.identity(name)).ignore_errors()
    return records.skip(skip).take(take)


def _stretch(
    unreadable: Unreadable,
    files: tf.data.Dataset,
    name: tf.Tensor,
    skip: tf.Tensor,
    take: tf.Tensor,
) -> tf.data.Dataset:
    """The records of a stretch of a file.

    Good ones are repeated for the lost ones, which are noted; where there is not one, those of the
    split's other files.
    """
    nowhere = tf.constant(-1, tf.int64)
    others = files.flat_map(_good).map(lambda each: (nowhere, each)).repeat()
    good = _good(name, skip, take).enumerate().repeat().concatenate(others)

    def record(place: tf.Tensor, numbered: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        found, content = numbered
        lost = tf.strings.join(["record ", tf.strings.as_string(skip + place), " of ", name])
        tf.cond(
            found == place,
            lambda: True,
            lambda: tf.ensure_shape(tf.numpy_function(unreadable.note, [lost], tf.bool), []),
        )
        return content

    whole = good.take(take).enumerate().map(record)
    return whole.apply(tf.data.experimental.assert_cardinality(take))


def _opens(name: bytes) -> bool:
    """Whether a file can be opened; says so if not."""
    try:
        with tf.io.gfile.GFile(name.decode(), "rb") as file:
            file.read(1)
    except tf.errors.OpError as error:
        logging.error("hydra_tf: %s cannot be opened: %s", name.decode(), error.message)
        return False
    return True


def _records(builder: Any, split: str, unreadable: Unreadable) -> tf.data.Dataset:
    """Encoded examples in the order of the files."""
    files, count = _files(builder, split)
    known = tf.data.experimental.assert_cardinality(count)
    return files.flat_map(functools.partial(_stretch, unreadable, files)).apply(known)


def _order(
    builder: Any, split: str, buffer: int, unreadable: Unreadable, seeds: tf.Tensor
) -> tf.data.Dataset:
    """Encoded examples of a pass: files in an order of their own, several at a time, then a buffer.

    The same in every run: reading in parallel does not change the order.
    """
    files, count = _files(builder, split)
    records = shuffled(files, files.cardinality(), seeds).interleave(
        functools.partial(_stretch, unreadable, files),
        cycle_length=_FILES,
        block_length=_BLOCK,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return shuffled(records, min(buffer, count), tf.reverse(seeds, [0]))


def _decode(features: Any, decoder: Decoder, unreadable: Unreadable) -> Any:
    """The function from an encoded example to image and label."""
    import tensorflow_datasets as tfds

    def decode(record: tf.Tensor, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        encoded = tfds.decode.SkipDecoding()
        example = features.deserialize_example(record, decoders={"image": encoded})
        label = tf.cast(example["label"], tf.int64)
        unnamed = tf.strings.format(
            "an image of class {} ({})", (label, tf.strings.to_hash_bucket_fast(record, 10**9))
        )
        name = example.get("file_name", unnamed)
        return attempt(lambda: (decoder(example["image"], seed), label), decoder, name, unreadable)

    return tf.function(decode)  # traced once, however many splits and passes call it
