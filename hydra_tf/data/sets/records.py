"""Photographs that TensorFlow Datasets has prepared, streamed with bounded memory.

To shuffle, the files are permuted, and a buffer of fixed length permutes encoded images.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from hydra_tf.core.lazy import tf
from hydra_tf.data.passes import shuffled
from hydra_tf.data.sets.decoding import Decoder, check_size
from hydra_tf.data.sets.tfds import PreparedDataSet, prepared_builder, prepared_hash
from hydra_tf.data.source import Decode, Example, Source
from hydra_tf.data.unreadable import UnreadableLog, read_or_mark

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Number of files read at the same time, and of consecutive examples taken from each.
_FILES, _BLOCK = 16, 8
_CANNOT_OPEN = (
    "A record file of the data set cannot be opened; see the line above for its name, and check "
    "that the disk is still mounted."
)


@dataclass(frozen=True)
class PreparedPhotographs(PreparedDataSet):
    """Base of the data sets of photographs of any size, one subclass each.

    Training images have a random crop, validation and test images the centre crop; see
    :class:`hydra_tf.data.sets.decoding.Decoder`. An image that cannot be decoded is replaced by
    the next readable one of its batch. Damaged records are replaced by readable ones of the same
    file or, if it has none, of the same split. A warning at the end of the pass names both.

    Args:
        crop: pixels of random shift on top of the cut, see :class:`DataSet`.
        flip: mirror training images at random.
        data_dir: folder of the prepared data sets, see :class:`PreparedDataSet`.
        validation_share: share of the training images, the last ones, used for validation.
        size: height and width that images are resized to.
        buffer: number of encoded images from which the next one of a pass is chosen; about
            0.1 megabytes each.
    """

    flip: bool = True
    size: int = 224
    buffer: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)
        if self.buffer < 1:
            raise ValueError(f"buffer must be a number of images, at least 1, not {self.buffer}.")

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`.

        Raises:
            FileNotFoundError: when it is not prepared.
            ValueError: when it is not prepared as TFRecord files.
        """
        builder = prepared_builder(self.full_name, self.data_dir)
        if (kind := builder.info.file_format.value) != "tfrecord":
            raise ValueError(
                f'The data set "{self.full_name}" is prepared as {kind} files, but is read from '
                "TFRecord files; prepare it in that format."
            )
        total = builder.info.splits["train"].num_examples
        train = total - max(1, round(total * self.validation_share))
        unreadable = UnreadableLog()
        return Source(
            train=_records(builder, f"train[:{train}]", unreadable),
            validation=_records(builder, f"train[{train}:]", unreadable),
            test=_records(builder, "validation", unreadable),
            num_classes=builder.info.features["label"].num_classes,
            augment=self.augmentation(),
            decode=_make_decode(builder.info.features, Decoder(self.size), unreadable),
            order=functools.partial(
                _ordered_records, builder, f"train[:{train}]", self.buffer, unreadable
            ),
            unreadable=unreadable,
            fingerprint=functools.partial(prepared_hash, builder),
        )

    @property
    def full_name(self) -> str:
        """Name and configuration in TensorFlow Datasets."""
        return self.builder_name


def _files(builder: tfds.core.DatasetBuilder, split: str) -> tuple[tf.data.Dataset, int]:
    """Return (file, skip, take) for the files of a split, and the number of examples."""
    instructions = builder.info.splits[split].file_instructions
    table = (
        [str(instruction.filename) for instruction in instructions],
        np.array([instruction.skip for instruction in instructions]),
        np.array([instruction.take for instruction in instructions]),
    )
    return tf.data.Dataset.from_tensor_slices(table), sum(i.take for i in instructions)


def _readable_records(name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    """Return the records of a file up to a wrong checksum, after which none can be located."""
    # Checked first, since ignore_errors would hide a missing file.
    can_open = tf.ensure_shape(tf.numpy_function(_can_open, [name], tf.bool), [])
    with tf.control_dependencies([tf.debugging.Assert(can_open, [_CANNOT_OPEN])]):
        records = tf.data.TFRecordDataset(tf.identity(name)).ignore_errors()
    return records.skip(skip).take(take)


def _records_of_file(
    unreadable: UnreadableLog,
    files: tf.data.Dataset,
    name: tf.Tensor,
    skip: tf.Tensor,
    take: tf.Tensor,
) -> tf.data.Dataset:
    """Return the records `skip` to `skip + take` of a file.

    Readable records are repeated in place of damaged ones, which are logged; if the file has no
    readable records, those of the split's other files are used.
    """
    other_file = tf.constant(-1, tf.int64)
    others = files.flat_map(_readable_records).map(lambda record: (other_file, record)).repeat()
    readable = _readable_records(name, skip, take).enumerate().repeat().concatenate(others)

    def log_replaced(position: tf.Tensor, numbered: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        number, record = numbered
        lost = tf.strings.join(["record ", tf.strings.as_string(skip + position), " of ", name])
        tf.cond(
            number == position,
            lambda: True,
            lambda: tf.ensure_shape(tf.numpy_function(unreadable.add, [lost], tf.bool), []),
        )
        return record

    records = readable.take(take).enumerate().map(log_replaced)
    return records.apply(tf.data.experimental.assert_cardinality(take))


def _can_open(name: bytes) -> bool:
    """Return whether a file can be opened, and log an error if not."""
    try:
        with tf.io.gfile.GFile(name.decode(), "rb") as file:
            file.read(1)
    except tf.errors.OpError as error:
        logging.error("hydra_tf: %s cannot be opened: %s", name.decode(), error.message)
        return False
    return True


def _records(
    builder: tfds.core.DatasetBuilder, split: str, unreadable: UnreadableLog
) -> tf.data.Dataset:
    """Return encoded examples in the order of the files."""
    files, count = _files(builder, split)
    known = tf.data.experimental.assert_cardinality(count)
    return files.flat_map(functools.partial(_records_of_file, unreadable, files)).apply(known)


def _ordered_records(
    builder: tfds.core.DatasetBuilder,
    split: str,
    buffer: int,
    unreadable: UnreadableLog,
    seeds: tf.Tensor,
) -> tf.data.Dataset:
    """Return the encoded examples of a pass: shuffled files, interleaved, then a shuffle buffer.

    Parallel reading does not change the order.
    """
    files, count = _files(builder, split)
    records = shuffled(files, files.cardinality(), seeds).interleave(
        functools.partial(_records_of_file, unreadable, files),
        cycle_length=_FILES,
        block_length=_BLOCK,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return shuffled(records, min(buffer, count), tf.reverse(seeds, [0]))


def _make_decode(
    features: tfds.features.FeaturesDict, decoder: Decoder, unreadable: UnreadableLog
) -> Decode:
    """Return the function from an encoded example to image and label."""
    import tensorflow_datasets as tfds

    def decode(record: tf.Tensor, seed: tf.Tensor | None) -> Example:
        encoded = tfds.decode.SkipDecoding()
        example = features.deserialize_example(record, decoders={"image": encoded})
        label = tf.cast(example["label"], tf.int64)
        fallback = tf.strings.format(
            "an image of class {} ({})", (label, tf.strings.to_hash_bucket_fast(record, 10**9))
        )
        name = example.get("file_name", fallback)
        return read_or_mark(
            lambda: (decoder(example["image"], seed), label), decoder.shape, name, unreadable
        )

    traced: Decode = tf.function(decode)  # once for all splits and passes
    return traced
