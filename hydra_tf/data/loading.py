"""The registry of data sets, and how one becomes batches to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hydra_tf.core.lazy import tf
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.batches import Training, fixed, prefetched
from hydra_tf.data.extra_images import check_match, extra_of, split_share
from hydra_tf.data.passes import Passes
from hydra_tf.data.sets.base import DATASETS, build
from hydra_tf.data.source import Source


@dataclass(frozen=True)
class DataSplits:
    """Batches of (images float32 [batch, height, width, channels] in [0, 1], labels int32 [batch]).

    Args:
        name: name of the data set.
        train: shuffled anew in every iteration, and augmented: the n-th iteration is
            ``train_pass(first_epoch + n)``.
        validation: in a fixed order; for every choice made during training.
        test: in a fixed order; for the final report only.
        image_shape: (height, width, channels).
        num_classes: number of classes.
        sizes: number of images of ``"train"``, ``"validation"`` and ``"test"``, extra ones not
            counted.
        steps: number of training batches of a whole pass.
        last_batch: number of images of the last of them.
        train_pass: (n, first_step=0) -> the training batches of pass n from `first_step` on.
    """

    name: str
    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    image_shape: tuple[int, int, int]
    num_classes: int
    sizes: Mapping[str, int]
    steps: int
    last_batch: int
    train_pass: Callable[..., Any]


def load(
    spec: Any,
    batch_size: int = 128,
    seed: int = 0,
    augment: Augment | bool | None = None,
    drop_remainder: bool = False,
    first_epoch: int = 0,
    first_step: int = 0,
    extra: Any = None,
    as_bytes: bool = False,
    worker: tuple[int, int] = (0, 1),
) -> DataSplits:
    """Return the batches of a data set.

    The order of the n-th pass over the training images, and their augmentation, depend on
    `seed` and n alone.

    Args:
        spec: name with parameters (``"cifar10:crop=0"``), mapping, instance, or a callable
            without arguments that returns a :class:`Source`.
        batch_size: images per batch.
        seed: seed of the order and the augmentation.
        augment: None for the data set's own augmentation, False for none, or a function
            (images [batch, height, width, channels], seed int64 [2]) -> images. Images that
            are decoded are cut at random before it, unless it is False.
        drop_remainder: leave out the last training batch if it is not full.
        first_epoch: number of passes to skip, so that a resumed run sees what the
            interrupted one would have seen.
        first_step: number of batches of that pass to skip, before anything is decoded. The
            first iteration is then shorter than the others, and the cardinality of ``train``
            unknown; ``steps`` is that of a whole pass.
        extra: a data set whose training images (all, if it is cut from one pile) are mixed into
            every batch, as a ``share`` of it that stands among its parameters and is 0.5 when
            left out: ``"npz:path=tiny.npz,share=0.5"``. The labelled images give a pass its
            length; the extra ones go on in the next pass where they have stopped in this.
        as_bytes: leave training images that are held as bytes uint8 in [0, 255], where `augment`
            needs no floats: a quarter of what goes to the device. :func:`training.train` takes
            them as they are, :func:`hydra_tf.core.pixels.unit_floats` makes floats of them.
        worker: (number of this worker, how many share each batch): training images of the
            shares of others are not decoded but black. They are still read, so that the order
            is the same everywhere; images that need no decoding are there for all.

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
    _check_whole("first_step", first_step, 0)
    augment = _checked_augment(augment)
    part = build(spec)
    more, share = (None, 0.0) if extra is None else _build_extra(extra)
    extra_count = 0 if more is None else extra_of(share, batch_size)
    source = _read(part)
    sizes = {split: _count(getattr(source, split), split) for split in _SPLITS}
    shape = _image_shape(source)
    main = Passes(source, sizes["train"], seed, random=augment is not False)
    training = Training(
        main,
        batch_size,
        drop_remainder,
        source.augment if augment is None else augment or None,
        None if more is None else _extra_passes(more, main, shape),
        extra_count,
        as_bytes,
    ).of_worker(*worker)
    return DataSplits(
        name=DATASETS.parse(spec)[0] if isinstance(spec, str | Mapping) else _name_of(part),
        train=training.from_pass(first_epoch, first_step),
        validation=fixed(source, source.validation, batch_size),
        test=fixed(source, source.test, batch_size),
        image_shape=shape,
        num_classes=source.num_classes,
        sizes=sizes,
        steps=training.steps,
        last_batch=training.last_batch,
        train_pass=lambda n, first_step=0: prefetched(training.one_pass(n, first_step)),
    )


_SPLITS = ("train", "validation", "test")


def _check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def _checked_augment(augment: Any) -> Augment | Literal[False] | None:
    """Refuse what is no augmentation and no way to leave it out."""
    if augment is True or not (augment is None or augment is False or callable(augment)):
        raise TypeError(
            "augment is None (the data set's own), False (none) or a function of (images, seed), "
            f"not {augment!r}."
        )
    return augment


def _read(part: Callable[[], Any]) -> Source:
    """Read a data set."""
    source = part()
    if not isinstance(source, Source):
        raise TypeError(f"A data set given as a callable must return a Source, not {source!r}.")
    return source


def _build_extra(extra: Any) -> tuple[Callable[[], Source], float]:
    """The data set of extra images, not yet read, and its share of a batch."""
    spec, share = split_share(extra)
    whole: dict[str, float] = {}
    if isinstance(spec, str | Mapping) and "test_share" in DATASETS.parameters(
        DATASETS.parse(spec)[0]
    ):
        # Cut from one pile, of which nothing is needed for validation and test.
        whole = {"validation_share": 0.0, "test_share": 0.0}
    return DATASETS.build(spec, **whole), share


def _extra_passes(part: Callable[[], Source], main: Passes, shape: tuple[int, int, int]) -> Passes:
    """The passes over extra images, which must fit the labelled ones."""
    source = _read(part)
    check_match(shape, main.source.num_classes, _image_shape(source), source.num_classes)
    return replace(main, source=source, size=_count(source.train, "extra"), lane=1)


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


def _image_shape(source: Source) -> tuple[int, int, int]:
    """Shape of an image, all three axes known."""
    examples = source.train
    if source.decode is not None:
        decode = source.decode
        examples = examples.map(lambda record: decode(record, None))
    shape = examples.element_spec[0].shape
    if shape.rank != 3 or not shape.is_fully_defined():
        raise ValueError(
            f"Images must be of one known shape [height, width, channels], not {shape}; resize "
            "them first."
        )
    height, width, channels = shape.as_list()
    return height, width, channels
