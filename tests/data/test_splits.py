"""The embedded data sets: values, sizes, and strata."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import data
from hydra_tf.data.augmentation import crop_and_flip
from hydra_tf.data.sets.splitting import split_arrays, stratified_order

EMBEDDED = {
    "digits": ((8, 8, 1), {"train": 1257, "validation": 180, "test": 360}),
    "mnist_5k": ((28, 28, 1), {"train": 3500, "validation": 500, "test": 1000}),
}


def _gather(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    batches = list(dataset.as_numpy_iterator())
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


@pytest.fixture(scope="module", params=EMBEDDED)
def loaded(request: pytest.FixtureRequest) -> data.DataSplits:
    return data.load(request.param, batch_size=100)


def test_shapes_types_and_sizes(loaded: data.DataSplits) -> None:
    shape, sizes = EMBEDDED[loaded.name]
    assert (loaded.image_shape, loaded.num_classes, loaded.sizes) == (shape, 10, sizes)
    for split, size in sizes.items():
        batches = getattr(loaded, split)
        assert int(batches.cardinality()) == -(-size // 100)
        images, labels = _gather(batches)
        assert images.shape == (size, *shape) and images.dtype == np.float32
        assert labels.shape == (size,) and labels.dtype == np.int32
        assert images.min() == 0.0 and images.max() == 1.0


def test_splits_are_stratified_and_share_no_image(loaded: data.DataSplits) -> None:
    parts = {split: _gather(getattr(loaded, split)) for split in loaded.sizes}
    counts = {split: np.bincount(y, minlength=10) for split, (_, y) in parts.items()}
    everything = np.sum(list(counts.values()), axis=0)
    for split, count in counts.items():
        share = everything * loaded.sizes[split] / everything.sum()
        assert np.abs(count - share).max() <= 1.0, split
    # Neither source holds an image twice, so each must come out exactly once.
    flat = np.concatenate([x.reshape(len(x), -1) for x, _ in parts.values()])
    assert len(np.unique(flat, axis=0)) == sum(loaded.sizes.values())


def test_the_split_is_the_published_one() -> None:
    """A change of the permutation would make every measured number incomparable."""
    images, labels = _gather(data.load("mnist_5k").test)
    assert labels[:20].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 2
    grey = np.rint(images * 255).astype(np.int64)
    assert (
        grey.sum() == 26_016_104 and (grey.sum((1, 2, 3)) * np.arange(1000)).sum() == 12_996_337_978
    )


def test_every_class_is_distributed_evenly() -> None:
    labels = np.repeat([0, 1, 2], [40, 20, 10])
    order = stratified_order(labels)
    assert sorted(order) == list(range(70))
    for start in range(0, 70, 7):  # 4, 2 and 1 of each seven, give or take one
        counts = np.bincount(labels[order[start : start + 7]], minlength=3)
        assert np.abs(counts - [4, 2, 1]).max() <= 1


def test_augmentation_differs_between_batches_and_epochs() -> None:
    """All images are equal, so only crops differ."""
    images = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1).repeat(24, axis=0)
    source = split_arrays(images, np.zeros(24, int), 2, 2, crop_and_flip(2, flip=False))
    train = data.load(lambda: source, batch_size=10).train
    first, second = _gather(train)[0], _gather(train)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[:10], first[10:])
    plain = data.load(lambda: source, augment=False).train
    np.testing.assert_array_equal(_gather(plain)[0], images[:20] / np.float32(255))


def test_own_augmentation_replaces_the_standard_one() -> None:
    splits = data.load("digits:crop=1", augment=lambda images, seed: images * 0.0 + 0.25)
    assert set(_gather(splits.train)[0].ravel()) == {0.25}
    assert _gather(splits.test)[0].max() == 1.0


def test_last_batch_is_kept_by_default() -> None:
    kept = data.load("digits", batch_size=100).train
    dropped = data.load("digits", batch_size=100, drop_remainder=True)
    assert [len(y) for _, y in kept] == [100] * 12 + [57]
    assert [len(y) for _, y in dropped.train] == [100] * 12
    assert dropped.train.element_spec[0].shape.as_list() == [100, 8, 8, 1]
    assert len(_gather(dropped.validation)[1]) == 180


def test_a_callable_and_a_mapping_name_a_data_set() -> None:
    def my_own() -> data.Source:
        return split_arrays(np.zeros((6, 2, 3, 1), np.uint8), np.arange(6) % 2, 1, 1)

    splits = data.load(my_own)
    assert (splits.name, splits.image_shape, splits.num_classes) == ("my_own", (2, 3, 1), 2)
    assert data.load({"name": "digits", "crop": 1}).name == "digits"
    assert data.load(data.build("digits")).name == "digits"


@pytest.mark.parametrize(
    ("spec", "options", "error", "sentence"),
    [
        ("digit", {}, ValueError, 'Unknown data set "digit"; did you mean "digits"'),
        ("digits:crops=1", {}, ValueError, 'did you mean "crop"'),
        ("digits:crop=-1", {}, ValueError, "at least 0"),
        ("cifar10:validation_share=1.0", {}, ValueError, "between 0 and 1"),
        ("digits", {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ("digits", {"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ("digits", {"seed": -1}, ValueError, "seed must be at least 0"),
        ("digits", {"augment": True}, TypeError, "augment must be None"),
        ("digits", {"batch_size": 2000, "drop_remainder": True}, ValueError, "leaves no batch"),
        (lambda: 3, {}, TypeError, "must return a Source"),
    ],
)
def test_bad_input_ends_in_a_sentence(
    spec: object, options: dict[str, object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        data.load(spec, **options)  # type: ignore[arg-type]


def test_invalid_sources_raise() -> None:
    good = split_arrays(np.zeros((6, 2, 2, 1), np.uint8), np.arange(6) % 2, 1, 1)
    endless = data.Source(good.train.repeat(), good.validation, good.test, 2)
    with pytest.raises(ValueError, match="train split is empty, endless"):
        data.load(lambda: endless)
    flat = good.train.map(lambda x, y: (x[..., 0], y))
    with pytest.raises(ValueError, match="one known shape"):
        data.load(lambda: data.Source(flat, good.validation, good.test, 2))
    with pytest.raises(ValueError, match="leave none of 6"):
        split_arrays(np.zeros((6, 2, 2, 1)), np.zeros(6), 3, 3)


def test_names_and_parameters_are_known_without_loading_tensorflow() -> None:
    """A command line is checked before the slow import."""
    script = (
        "import sys; from hydra_tf import data, models;"
        "[r.parameters(n) for r in (data.DATASETS, models.MODELS) for n in r.names()];"
        "data.build('cifar10:crop=2'); models.MODELS.build('vgg16_bn');"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'mlxtend', 'tensorflow_datasets'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
