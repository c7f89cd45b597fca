"""Data sets that TensorFlow Datasets has prepared on this machine.

Nothing is downloaded: a data set that is not prepared raises an error that says how to prepare it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydra_tf.core.lazy import tf
from hydra_tf.data.fingerprint import files_hash
from hydra_tf.data.sets.base import DataSet
from hydra_tf.data.source import Source

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


@dataclass(frozen=True)
class PreparedDataSet(DataSet):
    """Base of the data sets that TensorFlow Datasets prepares, one subclass each.

    Args:
        crop: pixels of random shift of training images, see :class:`DataSet`.
        flip: mirror training images at random.
        data_dir: folder of the prepared data sets; by default that of the environment variable
            TFDS_DATA_DIR, or else the default of TensorFlow Datasets.
        validation_share: share of the training split, the last images, used for validation.
    """

    data_dir: str | None = None
    validation_share: float = 0.1

    builder_name: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_share < 1:
            raise ValueError(
                "validation_share must be a share of the training images between 0 and 1, not "
                f"{self.validation_share}."
            )

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`.

        Raises:
            FileNotFoundError: when it is not prepared.
        """
        builder = prepared_builder(self.builder_name, self.data_dir)
        total = builder.info.splits["train"].num_examples
        train = total - max(1, round(total * self.validation_share))
        return Source(
            # Cached, so that images are decoded once and not in every epoch.
            train=_examples(builder, f"train[:{train}]").cache(),
            validation=_examples(builder, f"train[{train}:]"),
            test=_examples(builder, "test"),
            num_classes=builder.info.features["label"].num_classes,
            augment=self.augmentation(),
            fingerprint=lambda: prepared_hash(builder),
        )


def prepared_builder(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """Return the TensorFlow Datasets builder of a data set that is prepared on this machine.

    Args:
        name: name in TensorFlow Datasets.
        data_dir: folder of the prepared data sets, or None for the default one.

    Raises:
        FileNotFoundError: when it is not prepared.

    Example:
        >>> prepared_builder("cifar10", "no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: The folder "no/such/folder" given as data_dir ... does not exist; ...
    """
    import tensorflow_datasets as tfds

    # TensorFlow Datasets reads the variable only when it is imported.
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    if folder and not os.path.isdir(os.path.expanduser(folder)):
        raise FileNotFoundError(
            f'The folder "{folder}" given as data_dir or TFDS_DATA_DIR does not exist; give the '
            f'one that contains the prepared "{name}".'
        )
    builder = tfds.builder(name, data_dir=os.path.expanduser(folder) if folder else None)
    if not builder.is_prepared():
        raise FileNotFoundError(
            f'The data set "{name}" is not prepared: {builder.data_dir} has no complete copy. '
            f'Run "tfds build {name}" (or tfds.load("{name}", download=True)) on a machine with a '
            "network, and give the folder it was written to as data_dir or TFDS_DATA_DIR."
        )
    return builder


def prepared_hash(builder: tfds.core.DatasetBuilder) -> str:
    """Return a hash of a prepared data set: its version, and the length and start of its files.

    Args:
        builder: builder of :func:`prepared_builder`.
    """
    splits = sorted(builder.info.splits.items())
    lengths = [(name, split.shard_lengths) for name, split in splits]
    paths = [str(path) for _, split in splits for path in split.filepaths]
    return files_hash(f"{builder.info.full_name} {lengths}", paths, tf.io.gfile.GFile)


def _examples(builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """Return examples (image, label) in the order of the files, for any number of cores."""
    import tensorflow_datasets as tfds

    return builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=False,
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )
