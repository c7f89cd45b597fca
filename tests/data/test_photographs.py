"""ImageNet and Imagenette, read from small prepared copies."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from hydra_tf import data
from hydra_tf.data.sets.decoding import Decoder

Gather = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize(("name", "classes"), [("imagenet", 1000), ("imagenette", 10)])
def test_the_last_training_images_validate_and_validation_is_the_test(
    name: str,
    classes: int,
    tfds_root: pathlib.Path,
    photographs: list[np.ndarray],
    gather: Gather,
    encoded: Callable[..., bytes],
) -> None:
    spec = f"{name}:data_dir={tfds_root},size=12,validation_share=0.25,buffer=8"
    splits = data.load(spec, batch_size=8, augment=False)
    assert splits.sizes == {"train": 30, "validation": 10, "test": 12}
    assert (splits.image_shape, splits.num_classes) == ((12, 12, 3), classes)
    cuts = [Decoder(12)(encoded(p), None).numpy() / np.float32(255) for p in photographs]
    places = {"train": range(30), "validation": range(30, 40), "test": range(39, 27, -1)}
    for split, indices in places.items():
        images, labels = gather(getattr(splits, split))
        if split == "train":
            order = np.argsort(labels, kind="stable")
            expected = sorted(indices, key=lambda i: i % classes)
            assert labels[order].tolist() == [i % classes for i in expected]
            if classes == 10:
                continue
            images, labels, indices = images[order], labels[order], expected
        assert labels.tolist() == [i % classes for i in indices]
        wanted = np.stack([cuts[i] for i in indices])
        assert np.abs(images - wanted).mean() < 0.03  # the rest is JPEG's
        assert images.dtype == np.float32


def test_sizes_and_shares_by_default() -> None:
    imagenet, imagenette = data.build("imagenet"), data.build("imagenette")
    assert (imagenet.size, imagenet.flip, imagenet.validation_share) == (224, True, 0.01)
    assert (imagenette.size, imagenette.flip, imagenette.validation_share) == (160, True, 0.1)


def test_a_pass_mixes_the_files_beyond_the_buffer(tfds_root: pathlib.Path) -> None:
    """With a buffer of one image, shuffled files still change the order."""
    spec = f"imagenet:data_dir={tfds_root},size=4,buffer=1,validation_share=0.1"
    train = data.load(spec, augment=False).train
    passes = [np.concatenate([y for _, y in train.as_numpy_iterator()]).tolist() for _ in range(4)]
    assert all(sorted(one) == list(range(36)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_damaged_images_are_replaced_within_the_batch_and_named(
    tmp_path: pathlib.Path,
    prepare: Callable[..., None],
    photographs: list[np.ndarray],
    gather: Gather,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples = [
        {"image": image, "label": i, "file_name": f"n{i}.JPEG"}
        for i, image in enumerate(photographs[:12])
    ]
    splits = {"train": examples, "validation": examples}
    spoil = [("validation", 3), ("validation", 7), ("validation", 0)]
    prepare(tmp_path, "imagenet2012", splits, spoil=spoil)
    warnings: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *parts: warnings.append(text % parts))
    images, labels = gather(data.load(f"imagenet:data_dir={tmp_path},size=8", batch_size=4).test)
    assert labels.tolist() == [1, 1, 2, 1, 4, 5, 6, 4, 8, 9, 10, 11]
    np.testing.assert_array_equal(images[3], images[1])
    assert len(warnings) == 1 and "3 images" in warnings[0]
    assert "n0.JPEG, n3.JPEG, n7.JPEG" in warnings[0]


def test_an_image_without_a_name_is_told_by_its_class(
    tmp_path: pathlib.Path,
    prepare: Callable[..., None],
    photographs: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples = [{"image": image, "label": i} for i, image in enumerate(photographs[:8])]
    splits = {"train": examples, "validation": examples}
    prepare(tmp_path, "imagenette/160px-v2", splits, spoil=[("validation", 3), ("validation", 5)])
    warnings: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *parts: warnings.append(text % parts))
    list(data.load(f"imagenette:data_dir={tmp_path},variant=160px-v2,size=8").test)
    assert len(warnings) == 1 and "2 images" in warnings[0]
    assert "an image of class 3 (" in warnings[0] and "an image of class 5 (" in warnings[0]


@pytest.mark.parametrize(
    ("spec", "error", "sentence"),
    [
        ("imagenet:size=0", ValueError, "at least 1, not 0"),
        ("imagenet:buffer=0", ValueError, "buffer must be a number of images, at least 1"),
        ("imagenette:validation_share=0.0", ValueError, "between 0 and 1"),
        ("imagenette:variant=tiny", TypeError, "one of full-size-v2"),
        ("imagenet:data_dir={}", FileNotFoundError, '"tfds build imagenet2012"'),
        ("imagenette:data_dir={}", FileNotFoundError, '"tfds build imagenette/full-size-v2"'),
    ],
)
def test_bad_input_ends_in_a_sentence(
    spec: str, error: type[Exception], sentence: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(error, match=sentence):
        data.load(spec.format(tmp_path))


def test_another_file_format_is_refused(
    tfds_root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets as tfds

    kind: Any = tfds.core.FileFormat.ARRAY_RECORD
    monkeypatch.setattr(tfds.core.DatasetInfo, "file_format", property(lambda _: kind))
    with pytest.raises(ValueError, match="prepared as array_record files"):
        data.load(f"imagenet:data_dir={tfds_root}")


def test_the_files_are_read_in_one_order_by_any_number_of_cores(tfds_root: pathlib.Path) -> None:
    source = data.build(f"imagenet:data_dir={tfds_root},buffer=8")()
    seeds = tf.constant([5, 6], tf.int64)
    orders = []
    for cores in (1, 8):
        options = tf.data.Options()
        options.threading.private_threadpool_size = cores
        orders.append(list(source.order(seeds).with_options(options).as_numpy_iterator()))
    assert orders[0] == orders[1]


@pytest.fixture
def damaged(tmp_path: pathlib.Path, photographs: list[np.ndarray], prepare: Any) -> pathlib.Path:
    """A data_dir with imagenet2012, the second of whose three files is damaged in the middle."""
    examples = [
        {"image": image, "label": i, "file_name": f"n{i}"} for i, image in enumerate(photographs)
    ]
    prepare(tmp_path, "imagenet2012", {"train": examples, "validation": examples[:12]}, shards=3)
    [file] = tmp_path.glob("**/*train*-00001-of-00003")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    return tmp_path


def test_records_of_a_damaged_file_are_replaced_and_named(
    damaged: pathlib.Path, caplog: pytest.LogCaptureFixture, gather: Gather
) -> None:
    spec = f"imagenet:data_dir={damaged},size=8,validation_share=0.1,buffer=4"
    splits = data.load(spec, batch_size=8, augment=False)
    passes = []
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            _, labels = gather(splits.train)
        passes.append(sorted(labels.tolist()))
        assert len(labels) == 36
        lost = {i for i in range(36) if i not in labels}
        assert lost  # of the second file, from its damage on
        assert lost == set(range(min(lost), 14 + 13))
        assert caplog.text.count(f"{len(lost)} images could not be read in this pass") == 1
        assert "record " in caplog.text
        caplog.clear()
    assert passes[0] == passes[1]
    whole = list(splits.train_pass(3).as_numpy_iterator())
    for (x, y), (late_x, late_y) in zip(
        whole[2:], splits.train_pass(3, 2).as_numpy_iterator(), strict=True
    ):
        np.testing.assert_array_equal(x, late_x)
        np.testing.assert_array_equal(y, late_y)


def test_a_file_without_readable_records_uses_those_of_other_files(
    damaged: pathlib.Path, caplog: pytest.LogCaptureFixture, gather: Gather
) -> None:
    [file] = damaged.glob("**/*train*-00001-of-00003")
    content = bytearray(file.read_bytes())
    content[20] ^= 255
    file.write_bytes(content)
    [empty] = damaged.glob("**/*validation*-00002-of-00003")
    empty.write_bytes(b"")
    splits = data.load(f"imagenet:data_dir={damaged},size=8,validation_share=0.1,buffer=4")
    with caplog.at_level(logging.WARNING):
        _, labels = gather(splits.train)
    assert len(labels) == 36
    assert not set(labels) & set(range(14, 27))
    assert "13 images could not be read in this pass" in caplog.text
    assert gather(splits.test)[1].tolist() == [*range(8), *range(4)]
    assert f"of {empty}" in caplog.text


def test_training_images_never_replace_validation_images(
    tmp_path: pathlib.Path, photographs: list[np.ndarray], prepare: Any, gather: Gather
) -> None:
    examples = [
        {"image": image, "label": i, "file_name": f"n{i}"} for i, image in enumerate(photographs)
    ]
    prepare(tmp_path, "imagenet2012", {"train": examples, "validation": examples[:12]}, shards=2)
    [file] = tmp_path.glob("**/*train*-00001-of-00002")  # 20 examples, 4 of them for validation
    records = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    content = bytearray(file.read_bytes())
    content[sum(len(record) + 16 for record in records[:17]) + 20] ^= 255  # the second of the four
    file.write_bytes(content)
    splits = data.load(f"imagenet:data_dir={tmp_path},size=8,validation_share=0.1", batch_size=4)
    assert gather(splits.validation)[1].tolist() == [36] * 4


def test_a_missing_file_is_named(damaged: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    [file] = damaged.glob("**/*train*-00001-of-00003")
    file.unlink()
    splits = data.load(f"imagenet:data_dir={damaged},size=8,buffer=4", batch_size=8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="record file of the data set cannot"):
        list(splits.train)
    assert f"{file} cannot be opened" in caplog.text
