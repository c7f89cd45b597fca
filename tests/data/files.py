"""Small data sets in the files that the registered data sets read."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf
import tensorflow_datasets as tfds

from hydra_tf import data


def encoded(image: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    picture = PIL.Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(file, kind)
    return file.getvalue()


def prepare(
    root: pathlib.Path,
    name: str,
    splits: dict[str, Sequence[dict[str, Any]]],
    shards: int = 1,
    spoil: Sequence[tuple[str, int]] = (),
) -> None:
    """Write record files and metadata as `tfds build` does.

    Args:
        root: data_dir.
        name: data set, with its configuration.
        splits: the examples of each split.
        shards: number of files of a split.
        spoil: (split, position) of images that lose half of their bytes.
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
        for position, example in enumerate(examples):
            record = features.serialize_example(features.encode_example(example))
            if (split, position) in spoil:
                message = tf.train.Example.FromString(record)
                image = message.features.feature["image"].bytes_list.value
                image[0] = image[0][: len(image[0]) // 2]
                record = message.SerializeToString()
            records.append(record)
        lengths = [len(shard) for shard in np.array_split(np.arange(len(records)), shards)]
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


def pictures(count: int, size: int | None = None) -> list[np.ndarray]:
    """Return smooth pictures, no two of them alike, of sizes around 30 pixels or of `size`."""
    draw = np.random.RandomState(0)
    shapes = draw.randint(20, 40, (count, 2)) if size is None else [(size, size)] * count
    return [
        np.kron(draw.randint(0, 256, (4, 4, 3)), np.ones((10, 10, 1)))[:h, :w].astype(np.uint8)
        for h, w in shapes
    ]


def _write_prepared(name: str, kind: Any, root: pathlib.Path) -> str:
    builder = getattr(data.build(name), "full_name", kind.builder_name)
    features = tfds.builder(builder, data_dir=root).info.features
    height, _, channels = features["image"].shape
    images = [image[..., : channels or 3] for image in pictures(52, height)]
    examples = []
    for i, image in enumerate(images):
        values = {"image": image, "label": i % features["label"].num_classes}
        texts = {key: f"n{i}" for key in ("id", "file_name") if key in features}
        coarse = {"coarse_label": 0} if "coarse_label" in features else {}
        examples.append({**values, **texts, **coarse})
    test = "validation" if hasattr(kind, "buffer") else "test"
    prepare(root, builder, {"train": examples[:40], test: examples[40:]}, shards=2)
    size = ",size=12,buffer=8" if hasattr(kind, "buffer") else ""
    return f"{name}:data_dir={root}{size}"


def _write_folder(root: pathlib.Path) -> str:
    for i, image in enumerate(pictures(52)):
        path = root / "folder" / "abc"[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return f"folder:path={root / 'folder'},size=12"


def _write_npz(root: pathlib.Path) -> str:
    images = np.random.RandomState(1).randint(0, 256, (52, 8, 8, 1)).astype(np.uint8)
    np.savez(root / "tiny.npz", images=images, labels=np.arange(52) % 10)
    return f"npz:path={root / 'tiny.npz'}"


_WRITERS = {"folder": _write_folder, "npz": _write_npz}


def write(name: str, root: pathlib.Path) -> str:
    """Write 52 images for a registered data set that reads files, and return its spec.

    Raises:
        AssertionError: for a data set whose files are not known here.
    """
    kind = type(data.build(name))
    if hasattr(kind, "builder_name"):
        return _write_prepared(name, kind, root)
    if name in _WRITERS:
        return _WRITERS[name](root)
    needed = {"path", "data_dir"} & set(data.DATASETS.parameters(name))
    assert not needed, f'No files can be written for the data set "{name}"; add it to _WRITERS.'
    return name
