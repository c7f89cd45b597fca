"""Extra images in every batch, and archives of images: counts, order, errors."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import data
from hydra_tf.data.extra_images import interleaved_order


def _source(size: int, mark: int, classes: int = 2, shape: tuple[int, ...] = (1, 1, 1)) -> Any:
    """A data set whose training images have the values mark, mark + 1 ..."""

    def source() -> data.Source:
        images = (np.arange(size) + mark).astype(np.float32).reshape(size, 1, 1, 1)
        images = np.broadcast_to(images, (size, *shape))
        examples = tf.data.Dataset.from_tensor_slices((images, np.zeros(size, np.int64)))
        return data.Source(examples, examples.take(1), examples.take(1), classes)

    return source


def _values(batches: tf.data.Dataset) -> list[list[int]]:
    return [[int(v) for v in x.ravel()] for x, _ in batches.as_numpy_iterator()]


def test_extra_images_continue_in_the_next_pass() -> None:
    splits = data.load(_source(10, 0), batch_size=4, seed=1, extra=_source(17, 100))
    assert splits.steps == 5 == int(splits.train.cardinality())
    assert splits.sizes["train"] == 10
    passes = [_values(splits.train) for _ in range(4)]
    extra = []
    for batches in passes:
        assert [len([v for v in batch if v >= 100]) for batch in batches] == [2] * 5
        assert sorted(v for batch in batches for v in batch if v < 100) == list(range(10))
        extra += [v for batch in batches for v in batch if v >= 100]
    # Forty extra images of four passes: the seventeen twice, each time in another order.
    assert sorted(extra[:17]) == sorted(extra[17:34]) == list(range(100, 117))
    assert extra[:17] != extra[17:34]


def test_few_extra_images_repeat_within_a_pass() -> None:
    batches = _values(data.load(_source(12, 0), batch_size=8, extra=_source(3, 100)).train)
    extra = [v for batch in batches for v in batch if v >= 100]
    assert len(batches) == 3 and len(extra) == 12
    assert all(sorted(extra[i : i + 3]) == [100, 101, 102] for i in range(0, 12, 3))


@pytest.mark.parametrize(
    ("share", "drop", "sizes"),
    [(0.25, False, [8, 8, 8, 4]), (0.25, True, [8, 8, 8]), (0.6, False, [8] * 6 + [7])],
)
def test_the_last_batch_is_not_full_by_labelled_images(
    share: float, drop: bool, sizes: list[int], npz_path: pathlib.Path
) -> None:
    spec = f"npz:path={npz_path},validation_share=0.3,test_share=0.3"  # 20 to train on
    extra = f"npz:path={npz_path},share={share}"
    splits = data.load(spec, batch_size=8, extra=extra, drop_remainder=drop)
    assert [len(y) for _, y in splits.train] == sizes and splits.steps == len(sizes)
    if drop:
        assert splits.train.element_spec[0].shape.as_list() == [8, 8, 8, 1]


def test_all_images_of_an_archive_are_extra_images(npz_path: pathlib.Path) -> None:
    splits = data.load(
        f"npz:path={npz_path}", batch_size=10, augment=False, extra=f"npz:path={npz_path}"
    )
    seen: list[int] = []
    for n in range(2):
        for x, _ in splits.train_pass(n):
            seen += [round(float(v) * 255) for v in x[:, 0, 0, 0]]
    # 2 x 40 labelled ones, and 80 extra ones: each of the 50 once, then 30 of them again.
    counts = np.bincount(seen, minlength=50)
    assert counts.sum() == 160 and counts.min() >= 1
    labelled = {round(float(v) * 255) for x, _ in splits.train_pass(0) for v in x[:, 0, 0, 0]}
    assert len(labelled) > 40  # more than the training split of the archive


def test_extra_images_are_augmented_and_scaled_like_labelled_ones(npz_path: pathlib.Path) -> None:
    ones = data.load(
        "digits", batch_size=8, extra=f"npz:path={npz_path}", augment=lambda x, seed: x * 0 + 1.0
    )
    assert {float(v) for x, _ in ones.train.take(2) for v in np.ravel(x)} == {1.0}
    plain = data.load("digits", batch_size=8, extra=f"npz:path={npz_path}")
    images, labels = next(iter(plain.train))
    assert images.dtype == tf.float32 and labels.dtype == tf.int32
    assert float(tf.reduce_min(images)) >= 0 and float(tf.reduce_max(images)) <= 1


def test_both_kinds_are_interleaved_evenly() -> None:
    for first, second in ((4, 4), (96, 32), (5, 2), (1, 7)):
        order = interleaved_order((first, second)).numpy()
        assert sorted(order) == list(range(first + second))
        half = (first + second) // 2
        share = (order[:half] >= first).sum()
        assert abs(share - second * half / (first + second)) <= 1


def test_the_keys_of_published_archives_are_accepted(tmp_path: pathlib.Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    path = tmp_path / "tiny.npz"
    np.savez(path, data=images, extrapolated_targets=np.arange(20) % 4)
    splits = data.load(f"npz:path={path}", augment=False)
    assert splits.sizes == {"train": 16, "validation": 2, "test": 2}
    assert (splits.image_shape, splits.num_classes) == ((8, 8, 3), 4)
    parts = [np.concatenate([x for x, _ in getattr(splits, split)]) for split in splits.sizes]
    found = np.rint(np.concatenate(parts) * 255).astype(np.uint8).reshape(20, -1)
    flat = images.reshape(20, -1)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], flat[np.lexsort(flat.T)])


GOOD = {"images": np.zeros((4, 8, 8, 1), np.uint8), "labels": np.arange(4)}


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros(3)}, "is not a .npz file of images and labels .*: it contains x"),
        (
            {**GOOD, "images": np.zeros((4, 8, 8), np.uint8)},
            r"must contain uint8 images .*\[4, 8, 8\]",
        ),
        ({**GOOD, "images": np.zeros((4, 8, 8, 1))}, "must contain uint8 images .*float64"),
        ({**GOOD, "labels": np.arange(3)}, "and 3 labels"),
        ({**GOOD, "labels": np.array([0, 1, -1, 2])}, "whole numbers of at least 0"),
        ({**GOOD, "labels": np.zeros(4)}, "whole numbers of at least 0"),
        ({**GOOD, "labels": np.array([None, 1, 2, 3])}, "is not a .npz file"),
        ({**GOOD, "labels": np.arange(4) + 2 * 10**9}, "go up to 2000000003; number the classes"),
        ({**GOOD, "labels": np.arange(4, dtype=np.uint64) + 2**63}, "go up to 9223372036854775811"),
        (
            {**GOOD, "labels": np.eye(4, 3, dtype=np.uint8)},
            r"shape \[4, 3\]; store one whole number for each image \(argmax",
        ),
    ],
)
def test_invalid_archives_raise(
    arrays: dict[str, Any], sentence: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=sentence):
        data.load(f"npz:path={path}")


def test_a_file_that_is_not_an_archive_raises(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.npz").write_text("text")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "whole.npz", **GOOD)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    for name in ("text.npz", "array.npy", "cut.npz"):
        with pytest.raises(ValueError, match=r"is not a .npz file of images and labels"):
            data.load(f"npz:path={tmp_path / name}")
    with pytest.raises(FileNotFoundError, match='absent" of images does not exist'):
        data.load(f"npz:path={tmp_path / 'absent'}")
    with pytest.raises(ValueError, match=r"npz:path=/data/tiny\.npz"):
        data.load("npz")


@pytest.mark.parametrize(
    ("extra", "options", "error", "sentence"),
    [
        ("npz:path={},share=0", {}, ValueError, "share must be a share of every batch"),
        ("npz:path={},share=1.0", {}, ValueError, "share must be a share of every batch"),
        ("npz:path={},share=half", {}, TypeError, "share must be a number"),
        ({"name": "npz", "path": "x", "share": None}, {}, TypeError, "share must be a number"),
        ("npz:path={},share=0.01", {}, ValueError, "0 of the 8 images of a batch"),
        ("npz:path={},share=0.99", {}, ValueError, "8 of the 8 images of a batch"),
        ("npz:path=/absent", {}, FileNotFoundError, "does not exist"),
        ("nzp:path={}", {}, ValueError, 'Unknown data set "nzp"'),
        (
            "mnist_5k",
            {},
            ValueError,
            r"labelled images, \(8, 8, 1\), not \(28, 28, 1\)",
        ),
        (_source(9, 0, 11, (8, 8, 1)), {}, ValueError, "11 classes, but the data set has 10"),
        (lambda: 3, {}, TypeError, "must return a Source"),
        ("digits", {"batch_size": 1}, ValueError, "0 of the 1 images of a batch"),
    ],
)
def test_incompatible_extra_images_raise(
    extra: Any,
    options: dict[str, Any],
    error: type[Exception],
    sentence: str,
    npz_path: pathlib.Path,
) -> None:
    if isinstance(extra, str):
        extra = extra.format(npz_path)
    with pytest.raises(error, match=sentence):
        data.load("digits", **{"batch_size": 8, "extra": extra, **options})


def test_a_mapping_has_a_share_too(npz_path: pathlib.Path) -> None:
    extra = {"name": "npz", "path": str(npz_path), "share": 0.25}
    splits = data.load("digits", batch_size=8, extra=extra)
    assert splits.steps == -(-1257 // 6) and extra["share"] == 0.25
