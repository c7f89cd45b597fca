"""Small prepared copies of TensorFlow Datasets' sets, and small image files."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds


def _gather(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a dataset of batches."""
    batches = list(dataset.as_numpy_iterator())
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def _encoded(image: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    picture = PIL.Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(file, kind)
    return file.getvalue()


def _prepare(
    root: pathlib.Path,
    name: str,
    splits: dict[str, Sequence[dict[str, Any]]],
    shards: int = 1,
    spoil: Sequence[tuple[str, int]] = (),
) -> None:
    """Write what `tfds build` would: record files and metadata, with few images.

    Args:
        root: data_dir.
        name: data set, with its configuration.
        splits: the examples of each split.
        shards: number of files of a split.
        spoil: (split, place) of images of which half of the bytes are lost.
    """
    builder = tfds.builder(name, data_dir=root)
    features = builder.info.features
    folder = pathlib.Path(builder.data_dir)
    folder.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_path, dataset_name=builder.name, filetype_suffix="tfrecord"
    )
    infos = []
    for split, examples in splits.items():
        records = []
        for place, example in enumerate(examples):
            record = features.serialize_example(features.encode_example(example))
            if (split, place) in spoil:
                message = tf.train.Example.FromString(record)
                held = message.features.feature["image"].bytes_list.value
                held[0] = held[0][: len(held[0]) // 2]
                record = message.SerializeToString()
            records.append(record)
        lengths = [len(part) for part in np.array_split(np.arange(len(records)), shards)]
        for shard, end in enumerate(np.cumsum(lengths)):
            file = f"{builder.name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
            with tf.io.TFRecordWriter(str(folder / file)) as writer:
                for record in records[end - lengths[shard] : end]:
                    writer.write(record)
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=sum(map(len, records)),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, version=builder.version
    )


@pytest.fixture(scope="session")
def gather() -> Callable[..., Any]:
    return _gather


@pytest.fixture(scope="session")
def encoded() -> Callable[..., Any]:
    return _encoded


@pytest.fixture(scope="session")
def prepare() -> Callable[..., Any]:
    return _prepare


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """Forty smooth pictures, no two of them alike, of sizes around 30 pixels."""
    draw = np.random.RandomState(0)
    shapes = draw.randint(20, 40, (40, 2))
    return [
        np.kron(draw.randint(0, 256, (4, 4, 3)), np.ones((10, 10, 1)))[:h, :w].astype(np.uint8)
        for h, w in shapes
    ]


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
        _prepare(root, name, {"train": examples, test: examples[::-1][:12]}, shards=3)
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
        (folder / f"{i:02d}.{kind.lower()}").write_bytes(_encoded(image, kind))
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
