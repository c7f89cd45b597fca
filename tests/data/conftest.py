"""Small prepared copies of TensorFlow Datasets' sets, and small image files."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.data import files


def _gather(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a dataset of batches."""
    batches = list(dataset.as_numpy_iterator())
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


@pytest.fixture(scope="session")
def gather() -> Callable[..., Any]:
    return _gather


@pytest.fixture(scope="session")
def encoded() -> Callable[..., Any]:
    return files.encoded


@pytest.fixture(scope="session")
def prepare() -> Callable[..., Any]:
    return files.prepare


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """Forty smooth pictures, no two of them alike, of sizes around 30 pixels."""
    return files.pictures(40)


@pytest.fixture(scope="session")
def tfds_root(
    tmp_path_factory: pytest.TempPathFactory, photographs: list[np.ndarray]
) -> pathlib.Path:
    """A data_dir with cifar10, imagenet2012 and imagenette, of 40 training and 12 test images."""
    root = tmp_path_factory.mktemp("tfds_root")
    small = [np.ascontiguousarray(p[:16, :16]).repeat(2, 0).repeat(2, 1) for p in photographs]
    for name, images, classes, test, names in (
        ("cifar10", small, 10, "test", "id"),
        ("imagenet2012", photographs, 1000, "validation", "file_name"),
        ("imagenette/full-size-v2", photographs, 10, "validation", None),
    ):
        examples = [
            {"image": image, "label": i % classes, **({names: f"n{i}"} if names else {})}
            for i, image in enumerate(images)
        ]
        files.prepare(root, name, {"train": examples, test: examples[::-1][:12]}, shards=3)
    return root


@pytest.fixture(scope="session")
def class_folders(
    tmp_path_factory: pytest.TempPathFactory, photographs: list[np.ndarray]
) -> pathlib.Path:
    """A folder of the classes ant, bee and cat with 14, 13 and 13 images of all kinds."""
    root = tmp_path_factory.mktemp("folders")
    for i, image in enumerate(photographs):
        folder = root / ("ant", "bee", "cat")[i % 3]
        folder.mkdir(exist_ok=True)
        kind = ("PNG", "JPEG", "BMP", "GIF")[i % 4]
        (folder / f"{i:02d}.{kind.lower()}").write_bytes(files.encoded(image, kind))
    return root


@pytest.fixture(scope="session")
def npz_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Fifty images of 8x8x1 of ten classes; the first pixel of each is its number."""
    path = tmp_path_factory.mktemp("npz") / "tiny.npz"
    images = np.random.RandomState(1).randint(0, 256, (50, 8, 8, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(50)
    np.savez(path, images=images, labels=np.arange(50) % 10)
    return path


@pytest.fixture(scope="session")
def offline_specs(
    tfds_root: pathlib.Path, class_folders: pathlib.Path, npz_path: pathlib.Path
) -> dict[str, str]:
    """Every data set that can be read without a network."""
    return {
        "digits": "digits:crop=1",
        "mnist_5k": "mnist_5k",
        "npz": f"npz:path={npz_path},flip=true",
        "folder": f"folder:path={class_folders},size=12",
        "cifar10": f"cifar10:data_dir={tfds_root}",
        "imagenet": f"imagenet:data_dir={tfds_root},size=12,buffer=8",
        "imagenette": f"imagenette:data_dir={tfds_root},size=12,buffer=8",
    }
