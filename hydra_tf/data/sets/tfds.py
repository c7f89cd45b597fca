"""Data sets that TensorFlow Datasets has prepared on this machine.

Nothing here downloads: a data set that is not prepared is refused at once, with what to do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra_tf.data.sets.base import DataSet
from hydra_tf.data.source import Source


@dataclass(frozen=True)
class PreparedDataSet(DataSet):
    """Base of the data sets that TensorFlow Datasets prepares; one subclass for each.

    Args:
        crop: pixels of random shift of training images, see :class:`DataSet`.
        flip: mirror training images at random.
        data_dir: folder of the prepared data sets; when left out, that of the environment
            variable TFDS_DATA_DIR, or else TensorFlow Datasets' own.
        validation_share: share of the training split, its last part, that is kept out of
            training and used for validation.
    """

    data_dir: str | None = None
    validation_share: float = 0.1

    builder_name: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_share < 1:
            raise ValueError(
                "validation_share is a share of the training images between 0 and 1, not "
                f"{self.validation_share}."
            )

    def __call__(self) -> Source:
        """Read the data set; see :class:`DataSet`.

        Raises:
            FileNotFoundError: when it is not prepared, saying how to prepare it.
        """
        builder = prepared_builder(self.builder_name, self.data_dir)
        total = builder.info.splits["train"].num_examples
        train = total - max(1, round(total * self.validation_share))
        return Source(
            # Decoding is paid for once, not in every epoch; held as bytes, not as floats.
            train=_examples(builder, f"train[:{train}]").cache(),
            validation=_examples(builder, f"train[{train}:]"),
            test=_examples(builder, "test"),
            num_classes=builder.info.features["label"].num_classes,
            augment=self.augmentation(),
        )


def prepared_builder(name: str, data_dir: str | None = None) -> Any:
    """Return the TensorFlow Datasets builder of a data set that is prepared on this machine.

    Args:
        name: name in TensorFlow Datasets.
        data_dir: folder of the prepared data sets, or None for the usual one.

    Raises:
        FileNotFoundError: when it is not prepared, saying how to prepare it.

    Example:
        >>> prepared_builder("cifar10", "no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: The folder "no/such/folder" given as data_dir ... does not exist; ...
    """
    import tensorflow_datasets as tfds

    # TensorFlow Datasets reads the variable when it is imported, which may be long ago.
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    if given and not os.path.isdir(os.path.expanduser(given)):
        raise FileNotFoundError(
            f'The folder "{given}" given as data_dir or TFDS_DATA_DIR does not exist; give the one '
            f'that holds the prepared "{name}".'
        )
    builder = tfds.builder(name, data_dir=os.path.expanduser(given) if given else None)
    if not builder.is_prepared():
        raise FileNotFoundError(
            f'The data set "{name}" is not prepared: {builder.data_dir} holds no finished copy. '
            f'Run "tfds build {name}" (or tfds.load("{name}", download=True)) on a machine with a '
            "network, and give the folder it was written to as data_dir or TFDS_DATA_DIR."
        )
    return builder


def _examples(builder: Any, split: str) -> Any:
    """Examples (image, label) in the order of the files, whatever the number of cores."""
    import tensorflow_datasets as tfds

    return builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=False,
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )
