"""Data sets of TensorFlow Datasets, read from small prepared copies the tests write."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from hydra_tf import data

BUILDERS = {
    "mnist": ("mnist", (28, 28, 1), 10),
    "cifar10": ("cifar10", (32, 32, 3), 10),
    "cifar100": ("cifar100", (32, 32, 3), 100),
    "svhn": ("svhn_cropped", (32, 32, 3), 10),
}
SIZES = {"train": 40, "test": 12}


def _image(split: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The image at a place of a split: no two alike, 0 and 255 among the values."""
    key = index + 1000 * (split == "test")
    image = np.random.RandomState(key).randint(0, 256, shape).astype(np.uint8)
    image[0, :2, 0] = 0, 255
    return image


def _examples(name: str, split: str) -> list[dict[str, Any]]:
    features = tfds.builder(name).info.features
    return [
        {
            "image": _image(split, index, features["image"].shape),
            "label": index % features["label"].num_classes,
            **({"id": f"{split}_{index}"} if "id" in features else {}),
            **({"coarse_label": 0} if "coarse_label" in features else {}),
        }
        for index in range(SIZES[split])
    ]


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, prepare: Callable[..., None]
) -> pathlib.Path:
    root = tmp_path_factory.mktemp("tfds")
    for name, _, _ in BUILDERS.values():
        prepare(root, name, {split: _examples(name, split) for split in SIZES})
    return root


@pytest.mark.parametrize("name", BUILDERS)
def test_prepared_copy_is_read(prepared: pathlib.Path, name: str) -> None:
    _, shape, classes = BUILDERS[name]
    spec = f"{name}:data_dir={prepared},validation_share=0.25"
    splits = data.load(spec, batch_size=8, augment=False)
    assert (splits.name, splits.image_shape, splits.num_classes) == (name, shape, classes)
    assert splits.sizes == {"train": 30, "validation": 10, "test": 12}
    places = {"validation": ("train", range(30, 40)), "test": ("test", range(12))}
    for split, (source, indices) in places.items():
        batches = list(getattr(splits, split).as_numpy_iterator())
        images = np.concatenate([x for x, _ in batches])
        expected = np.stack([_image(source, i, shape) for i in indices]) / np.float32(255)
        np.testing.assert_array_equal(images, expected)
        assert images.dtype == np.float32 and images.min() == 0.0 and images.max() == 1.0
        labels = np.concatenate([y for _, y in batches])
        assert labels.dtype == np.int32 and labels.tolist() == [i % classes for i in indices]
    train = np.concatenate([x for x, _ in splits.train.as_numpy_iterator()])
    expected = np.stack([_image("train", i, shape) for i in range(30)]) / np.float32(255)
    np.testing.assert_array_equal(np.sort(train, axis=0), np.sort(expected, axis=0))
    assert int(splits.train.cardinality()) == 4


@pytest.mark.parametrize(
    ("name", "crop", "flip"),
    [("mnist", 0, False), ("svhn", 4, False), ("cifar10", 4, True), ("cifar100", 4, True)],
)
def test_standard_augmentation(prepared: pathlib.Path, name: str, crop: int, flip: bool) -> None:
    part = data.build(f"{name}:data_dir={prepared}")
    assert isinstance(part, data.DataSet)
    assert (part.crop, part.flip) == (crop, flip)
    splits = data.load(part, seed=1)
    once = np.concatenate([x for x, _ in splits.train.as_numpy_iterator()])
    twice = np.concatenate([x for x, _ in data.load(part, seed=1).train.as_numpy_iterator()])
    np.testing.assert_array_equal(once, twice)
    plain = np.concatenate(
        [x for x, _ in data.load(part, seed=1, augment=False).train.as_numpy_iterator()]
    )
    assert np.array_equal(once, plain) == (not crop and not flip)


@pytest.mark.parametrize("name", BUILDERS)
def test_an_unprepared_data_set_is_refused_at_once(tmp_path: pathlib.Path, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=f'"tfds build {BUILDERS[name][0]}"'):
        data.load(f"{name}:data_dir={tmp_path}")
    assert time.monotonic() - start < 10


def test_a_missing_folder_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.*does not exist"):
        data.load(f"cifar10:data_dir={tmp_path / 'absent'}")


def test_default_folder_comes_from_the_environment(
    prepared: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert data.load("cifar10").sizes["test"] == 12
