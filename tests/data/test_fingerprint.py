"""The hash of a data set changes with its images and labels, and only with them."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import data
from hydra_tf.data.fingerprint import array_hash


def test_arrays_and_tensors_have_the_same_hash() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    expected = array_hash(values)
    assert array_hash(tf.constant(values)) == array_hash(values.copy()) == expected
    assert array_hash(values[::-1]) != expected
    assert array_hash(values.reshape(3, 4)) != expected
    assert array_hash(values.astype(np.int32)) != expected
    assert array_hash(values, values) != expected


def test_every_image_and_label_of_an_archive_counts(
    npz_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with np.load(npz_path) as stored:
        images, labels = stored["images"], stored["labels"]
    path = tmp_path / "a.npz"

    def fingerprint(**arrays: np.ndarray) -> str | None:
        np.savez(path, **{"images": images, "labels": labels, **arrays})
        return data.load(f"npz:path={path}", seed=len(arrays)).fingerprint()

    expected = fingerprint()
    assert expected == data.load(f"npz:path={npz_path}", batch_size=3).fingerprint()
    for i in (0, len(images) - 1):
        changed, relabelled = images.copy(), labels.copy()
        changed[i, -1, -1, -1] ^= 1
        relabelled[i] = (relabelled[i] + 1) % 10
        assert fingerprint(images=changed) != expected
        assert fingerprint(labels=relabelled) != expected
    extra = data.load(f"npz:path={npz_path}", extra=f"npz:path={path}").fingerprint()
    assert extra is not None and extra.startswith(f"{expected} ")


@pytest.mark.slow
def test_names_classes_and_contents_of_a_folder_count(
    class_folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = tmp_path / "moved"
    shutil.copytree(class_folders, root)

    def fingerprint() -> str | None:
        return data.load(f"folder:path={root},size=4").fingerprint()

    expected = fingerprint()
    assert expected == data.load(f"folder:path={class_folders},size=8").fingerprint()
    (root / "ant" / "00.png").rename(root / "bee" / "00.png")
    assert fingerprint() != expected
    (root / "bee" / "00.png").rename(root / "ant" / "00.png")
    assert fingerprint() == expected
    content = (root / "ant" / "00.png").read_bytes()
    for changed in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        (root / "ant" / "00.png").write_bytes(changed)
        assert fingerprint() != expected


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_record_files_count(name: str, tfds_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "moved"
    shutil.copytree(tfds_root, root)
    expected = data.load(f"{name}:data_dir={tfds_root}").fingerprint()
    assert expected == data.load(f"{name}:data_dir={root}").fingerprint()
    file = next(root.glob(f"{name}/**/*train.tfrecord-00001*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert data.load(f"{name}:data_dir={root}").fingerprint() != expected


def test_a_source_without_a_hash_has_none() -> None:
    examples = tf.data.Dataset.from_tensors((tf.zeros([2, 2, 1]), 0))
    source = data.Source(examples, examples, examples, 1)
    assert data.load(lambda: source, batch_size=1).fingerprint() is None
