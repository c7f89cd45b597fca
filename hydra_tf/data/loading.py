"""Loading of a data set as batches for training, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hydra_tf.core.lazy import tf
from hydra_tf.core.types import require_seed
from hydra_tf.data.augmentation import Augment
from hydra_tf.data.batches import TrainingBatches, evaluation_batches, prefetch
from hydra_tf.data.extra_images import check_compatible, extra_per_batch, split_share
from hydra_tf.data.passes import Passes
from hydra_tf.data.sets.base import DATASETS, build
from hydra_tf.data.source import Source

_SPLITS = ("train", "validation", "test")
DataSetSpec = str | Mapping[str, Any] | Callable[[], Source]


@dataclass(frozen=True)
class DataSplits:
    """Batches of (images float32 [batch, height, width, channels] in [0, 1], labels int32 [batch]).

    Args:
        name: name of the data set.
        train: shuffled again in every iteration, and augmented; the n-th iteration is
            ``train_pass(first_epoch + n)``.
        validation: in a fixed order; for every choice made during training.
        test: in a fixed order; for the final report only.
        image_shape: (height, width, channels).
        num_classes: number of classes.
        sizes: number of images of ``"train"``, ``"validation"`` and ``"test"``, without extra
            images.
        steps: number of training batches in a complete pass.
        last_batch: number of images in the last of these batches.
        train_pass: (n, first_step=0) -> the training batches of pass n from `first_step` on.
        fingerprint: () -> a hash of images and labels, extra ones included, by which a resumed
            run notices that they have changed; None for a callable whose `Source` has none.

    Example:
        >>> splits = load("digits", batch_size=500)
        >>> splits.steps, splits.last_batch, splits.image_shape
        (3, 257, (8, 8, 1))
        >>> [len(labels) for _, labels in splits.train_pass(0, first_step=1)]
        [500, 257]
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
    train_pass: Callable[..., tf.data.Dataset]
    fingerprint: Callable[[], str | None]


def load(
    spec: DataSetSpec,
    batch_size: int = 128,
    seed: int = 0,
    augment: Augment | bool | None = None,
    drop_remainder: bool = False,
    first_epoch: int = 0,
    first_step: int = 0,
    extra: DataSetSpec | None = None,
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
            (images [batch, height, width, channels], seed int64 [2]) -> images. Unless it is
            False, images that are decoded are cropped at random before it.
        drop_remainder: drop the last training batch if it is not full.
        first_epoch: number of passes to skip, so that a resumed run sees what the
            interrupted one would have seen.
        first_step: number of batches of that pass to skip, before anything is decoded. The
            first iteration is then shorter than the others, and the cardinality of ``train``
            unknown; ``steps`` is that of a whole pass.
        extra: a data set whose training images (all images, if its splits are made by
            hydra_tf) are mixed into every batch. Its additional parameter ``share`` is their
            share of a batch, 0.5 by default: ``"npz:path=tiny.npz,share=0.5"``. The labelled
            images determine the length of a pass; the extra images continue in the next pass
            where they stopped in the previous one.
        as_bytes: keep 8-bit training images uint8 in [0, 255] if `augment` does not need
            floats, which quarters the transfer to the device. :func:`training.train` accepts
            them, and :func:`hydra_tf.core.pixels.unit_floats` converts them.
        worker: (number of this worker, number of workers that split each batch). Training
            images in the slices of other workers are black instead of decoded. They are still
            read, so that the order is the same on every worker. Images that need no decoding
            are complete on every worker.

    Returns:
        The three splits, each of known cardinality.

    Raises:
        ValueError: unknown data set or parameter, or a value out of range.
        TypeError: a value of the wrong type.
        FileNotFoundError: when the data set is not prepared.

    Example:
        >>> splits = load("digits", batch_size=64)
        >>> images, labels = next(iter(splits.train))
        >>> images.shape, labels.dtype.name, splits.num_classes
        (TensorShape([64, 8, 8, 1]), 'int32', 10)
    """
    _check_whole("batch_size", batch_size, 1)
    require_seed("seed", seed)
    _check_whole("first_epoch", first_epoch, 0)
    _check_whole("first_step", first_step, 0)
    augment = _checked_augment(augment)
    data_set = build(spec)
    extra_set, share = (None, 0.0) if extra is None else _build_extra(extra)
    extra_count = 0 if extra_set is None else extra_per_batch(share, batch_size)
    source = _read(data_set)
    sizes = {split: _count(getattr(source, split), split) for split in _SPLITS}
    shape = _image_shape(source)
    main = Passes(source, sizes["train"], seed, random_crops=augment is not False)
    training = TrainingBatches(
        main,
        batch_size,
        drop_remainder,
        source.augment if augment is None else augment or None,
        None if extra_set is None else _extra_passes(extra_set, main, shape),
        extra_count,
        as_bytes,
    ).for_worker(*worker)
    return DataSplits(
        name=DATASETS.parse(spec)[0] if isinstance(spec, str | Mapping) else _name_of(data_set),
        train=training.from_pass(first_epoch, first_step),
        validation=evaluation_batches(source, source.validation, batch_size),
        test=evaluation_batches(source, source.test, batch_size),
        image_shape=shape,
        num_classes=source.num_classes,
        sizes=sizes,
        steps=training.steps,
        last_batch=training.last_batch,
        train_pass=lambda n, first_step=0: prefetch(training.one_pass(n, first_step)),
        fingerprint=lambda: _fingerprint(training),
    )


def _fingerprint(training: TrainingBatches) -> str | None:
    """Return the fingerprints of the sources of training batches as one text."""
    sources = [passes.source for passes in (training.main, training.extra) if passes is not None]
    hashes = [source.fingerprint() for source in sources if source.fingerprint is not None]
    return " ".join(hashes) or None


def _check_whole(name: str, value: object, least: int) -> None:
    """Check that a value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def _checked_augment(augment: Augment | bool | None) -> Augment | Literal[False] | None:
    """Return `augment`, which must be a function, False or None."""
    if augment is True or not (augment is None or augment is False or callable(augment)):
        raise TypeError(
            "augment must be None (the data set's), False (none) or a function of (images, seed), "
            f"not {augment!r}."
        )
    return augment


def _read(data_set: Callable[[], Source]) -> Source:
    """Read a data set."""
    source = data_set()
    if not isinstance(source, Source):
        raise TypeError(f"A data set given as a callable must return a Source, not {source!r}.")
    return source


def _build_extra(extra: DataSetSpec) -> tuple[Callable[[], Source], float]:
    """Return the data set of extra images, not yet read, and its share of a batch."""
    spec, share = split_share(extra)
    no_splits: dict[str, float] = {}
    if isinstance(spec, str | Mapping) and "test_share" in DATASETS.parameters(
        DATASETS.parse(spec)[0]
    ):
        # Its splits are made here, and only training images are needed.
        no_splits = {"validation_share": 0.0, "test_share": 0.0}
    return DATASETS.build(spec, **no_splits), share


def _extra_passes(
    extra_set: Callable[[], Source], main: Passes, shape: tuple[int, int, int]
) -> Passes:
    """Return the passes over extra images, which must be compatible with the labelled ones."""
    source = _read(extra_set)
    check_compatible(shape, main.source.num_classes, _image_shape(source), source.num_classes)
    return replace(main, source=source, size=_count(source.train, "extra"), stream=1)


def _name_of(data_set: Callable[[], Source]) -> str:
    """Return the name of a data set that was passed as an object."""
    try:
        return str(DATASETS.config(data_set)["name"])
    except TypeError:
        return getattr(data_set, "__name__", type(data_set).__name__)


def _count(examples: tf.data.Dataset, split: str) -> int:
    """Return the number of examples of a split, which Keras needs for the length of an epoch."""
    count = int(examples.cardinality())
    if count < 1:
        raise ValueError(
            f"The {split} split is empty, endless or of unknown length; it needs at least one "
            "example, and tf.data.experimental.assert_cardinality can set its length."
        )
    return count


def _image_shape(source: Source) -> tuple[int, int, int]:
    """Return the shape of an image, of which all three axes must be known."""
    examples = source.train
    if source.decode is not None:
        decode = source.decode
        examples = examples.map(lambda record: decode(record, None))
    shape = examples.element_spec[0].shape
    if shape.rank != 3 or not shape.is_fully_defined():
        raise ValueError(
            f"Images must have one known shape [height, width, channels], not {shape}; resize "
            "them first."
        )
    height, width, channels = shape.as_list()
    return height, width, channels
