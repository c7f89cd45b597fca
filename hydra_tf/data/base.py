"""The registry of data sets, and how one becomes batches to train on."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra_tf._lazy import tf
from hydra_tf.data.augmentation import Augment, check_crop, crop_and_flip
from hydra_tf.registry import Registry

DATASETS: Registry[Callable[[], Source]] = Registry("data set", "hydra_tf.data")
build = DATASETS.build


@dataclass(frozen=True)
class Source:
    """What a data set hands over: single examples, not yet shuffled or batched.

    Args:
        train: examples (image [height, width, channels], integer label); the image is uint8
            in [0, 255] or float32 in [0, 1]. The number of examples must be known.
        validation: the same, for choices made during training.
        test: the same, for the final report only.
        num_classes: number of classes.
        augment: the data set's standard augmentation of training batches, if it has one.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    augment: Augment | None = None


@dataclass(frozen=True)
class DataSet(abc.ABC):
    """A data set: parameters, and one method that reads it.

    Args:
        crop: training images are padded by so many pixels of 0 on every side and cut back
            to their size at a random place; 0 leaves them as they are.
        flip: whether half of the training images are mirrored left to right.
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_crop(self.crop)

    @abc.abstractmethod
    def __call__(self) -> Source:
        """Read the data set."""

    def augmentation(self) -> Augment | None:
        """Return the augmentation that the parameters ask for, or None."""
        return crop_and_flip(self.crop, self.flip)


@dataclass(frozen=True)
class DataSplits:
    """Batches of (images float32 [batch, height, width, channels] in [0, 1], labels int32 [batch]).

    Args:
        name: name of the data set.
        train: shuffled anew in every epoch, and augmented.
        validation: in a fixed order; for every choice made during training.
        test: in a fixed order; for the final report only.
        image_shape: (height, width, channels).
        num_classes: number of classes.
        sizes: number of images of ``"train"``, ``"validation"`` and ``"test"``.
    """

    name: str
    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    image_shape: tuple[int, int, int]
    num_classes: int
    sizes: Mapping[str, int]


def load(
    spec: Any,
    batch_size: int = 128,
    seed: int = 0,
    augment: Augment | bool | None = None,
    drop_remainder: bool = False,
    first_epoch: int = 0,
) -> DataSplits:
    """Return the batches of a data set.

    The order of the n-th pass over the training images, and their augmentation, depend on
    `seed` and n alone (and on ``tf.random.set_seed``, where that is used).

    Args:
        spec: name with parameters (``"cifar10:crop=0"``), mapping, instance, or a callable
            without arguments that returns a :class:`Source`.
        batch_size: images per batch.
        seed: seed of the order and the augmentation.
        augment: None for the data set's own augmentation, False for none, or a function
            (images [batch, height, width, channels], seed int64 [2]) -> images.
        drop_remainder: leave out the last training batch if it is not full.
        first_epoch: number of passes to skip, so that a resumed run sees what the
            interrupted one would have seen.

    Returns:
        The three splits, each of known cardinality.

    Raises:
        ValueError: unknown data set or parameter, or a value out of range.
        TypeError: a value of the wrong type.
        FileNotFoundError: when the data set has to be prepared first.

    Example:
        >>> splits = load("digits", batch_size=64)
        >>> images, labels = next(iter(splits.train))
        >>> images.shape, labels.dtype.name, splits.num_classes
        (TensorShape([64, 8, 8, 1]), 'int32', 10)
    """
    _check_whole("batch_size", batch_size, 1)
    _check_whole("seed", seed, 0)
    _check_whole("first_epoch", first_epoch, 0)
    if augment is True or not (augment is None or augment is False or callable(augment)):
        raise TypeError(
            "augment is None (the data set's own), False (none) or a function of (images, seed), "
            f"not {augment!r}."
        )
    part = build(spec)
    source = part()
    if not isinstance(source, Source):
        raise TypeError(f"A data set given as a callable must return a Source, not {source!r}.")
    sizes = {split: _count(getattr(source, split), split) for split in _SPLITS}
    if drop_remainder and batch_size > sizes["train"]:
        raise ValueError(
            f"With drop_remainder, batch_size={batch_size} leaves no batch of the "
            f"{sizes['train']} training images; choose a smaller one."
        )
    chosen = source.augment if augment is None else augment or None
    train = source.train.shuffle(sizes["train"], seed=seed, reshuffle_each_iteration=True)
    train = _augmented(_batches(train, batch_size, drop_remainder), chosen, seed)
    finished = {
        "train": _finish(train),
        "validation": _finish(_batches(source.validation, batch_size)),
        "test": _finish(_batches(source.test, batch_size)),
    }
    for _ in range(first_epoch):
        iter(finished["train"])  # a new iterator draws the seeds of its pass, and reads nothing
    return DataSplits(
        name=DATASETS.parse(spec)[0] if isinstance(spec, str | Mapping) else _name_of(part),
        image_shape=_image_shape(source.train),
        num_classes=source.num_classes,
        sizes=sizes,
        **finished,
    )


_SPLITS = ("train", "validation", "test")


def _check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def _name_of(part: Any) -> str:
    """Name of a data set that was handed over as an object."""
    try:
        return str(DATASETS.config(part)["name"])
    except TypeError:
        return getattr(part, "__name__", type(part).__name__)


def _count(examples: tf.data.Dataset, split: str) -> int:
    """Number of examples of a split; Keras needs it to know the length of an epoch."""
    count = int(examples.cardinality())
    if count < 1:
        raise ValueError(
            f"The {split} split is empty, endless or of unknown length; it must hold at least one "
            "example, and tf.data.experimental.assert_cardinality can tell how many."
        )
    return count


def _image_shape(examples: tf.data.Dataset) -> tuple[int, int, int]:
    """Shape of an image, all three axes known."""
    shape = examples.element_spec[0].shape
    if shape.rank != 3 or not shape.is_fully_defined():
        raise ValueError(
            f"Images must be of one known shape [height, width, channels], not {shape}; resize "
            "them first."
        )
    height, width, channels = shape.as_list()
    return height, width, channels


def _batches(
    examples: tf.data.Dataset, batch_size: int, drop_remainder: bool = False
) -> tf.data.Dataset:
    """Batches of float32 images in [0, 1] and int32 labels."""

    def convert(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if images.dtype == tf.uint8:
            images = tf.cast(images, tf.float32) / 255.0
        return tf.cast(images, tf.float32), tf.cast(labels, tf.int32)

    batches = examples.batch(batch_size, drop_remainder=drop_remainder)
    return batches.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _augmented(batches: tf.data.Dataset, augment: Augment | None, seed: int) -> tf.data.Dataset:
    """Augment every batch with a seed of its own."""
    if augment is None:
        return batches
    # Not the batch's number in the pass: that would draw the same crops in every epoch.
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
    return tf.data.Dataset.zip((batches, seeds)).map(
        lambda batch, pair: (augment(batch[0], pair), batch[1]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetch, and let workers of tf.distribute share batches whatever the source is."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)
