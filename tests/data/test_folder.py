"""Folders of images: classes, splits, damaged files, errors."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from absl import logging

from hydra_tf import data

Gather = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The logged warnings."""
    sentences: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *parts: sentences.append(text % parts))
    return sentences


def _grey(root: pathlib.Path, name: str, level: int, encoded: Callable[..., bytes]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(np.full((8, 8, 3), level, np.uint8)))


def _levels(images: np.ndarray) -> list[int]:
    """The grey level of every image."""
    return [round(float(image[0, 0, 0]) * 255) for image in images]


def test_one_tree_is_split_in_proportion_and_always_the_same(
    class_folders: pathlib.Path, gather: Gather
) -> None:
    spec = f"folder:path={class_folders},size=12,validation_share=0.2,test_share=0.2"
    one, other = (data.load(spec, seed=seed) for seed in (0, 1))
    assert one.sizes == {"train": 24, "validation": 8, "test": 8}
    assert (one.name, one.image_shape, one.num_classes) == ("folder", (12, 12, 3), 3)
    for split in ("validation", "test"):
        (x, y), (other_x, other_y) = (gather(getattr(s, split)) for s in (one, other))
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)
        assert set(np.bincount(y)) <= {2, 3}  # 8 of classes as large as one another
        assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
    plain = data.load(spec, augment=False)
    parts = [gather(getattr(plain, split))[0] for split in plain.sizes]
    flat = np.concatenate([part.reshape(len(part), -1) for part in parts])
    assert len(np.unique(flat, axis=0)) == 40


def test_folders_of_splits_are_used_as_splits(
    tmp_path: pathlib.Path, gather: Gather, encoded: Callable[..., bytes]
) -> None:
    level = iter(range(10, 250, 10))
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        for name in ("b", "a", "Z"):
            for i in range(count):
                _grey(tmp_path, f"{split}/{name}/deep/{i}.png", next(level), encoded)
    splits = data.load(f"folder:path={tmp_path},size=4,channels=1", augment=False)
    assert splits.sizes == {"train": 9, "validation": 3, "test": 6}
    assert splits.image_shape == (4, 4, 1)
    images, labels = gather(splits.test)
    assert _levels(images) == [170, 180, 150, 160, 130, 140] and labels.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    images, labels = gather(splits.train)
    assert sorted(zip(labels.tolist(), _levels(images), strict=True)) == [
        *((0, 70), (0, 80), (0, 90), (1, 40), (1, 50), (1, 60), (2, 10), (2, 20), (2, 30))
    ]
    shutil.rmtree(tmp_path / "validation")
    splits = data.load(f"folder:path={tmp_path},size=4,validation_share=0.3")
    assert splits.sizes == {"train": 6, "validation": 3, "test": 6}
    assert sorted(gather(splits.validation)[1]) == [0, 1, 2]


@pytest.fixture
def damaged(tmp_path: pathlib.Path, encoded: Callable[..., bytes]) -> pathlib.Path:
    """Two classes of eight images, of which three of class a and one of class b are damaged."""
    for i in range(8):
        _grey(tmp_path, f"train/a/{i}.png", 10 + i, encoded)
        _grey(tmp_path, f"train/b/{i}.png", 110 + i, encoded)
        _grey(tmp_path, f"test/{'ab'[i % 2]}/{i}.png", 210 + i, encoded)
        _grey(tmp_path, f"validation/{'ab'[i % 2]}/{i}.png", 200 + i, encoded)
    noise = np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8)
    (tmp_path / "train/a/2.png").write_bytes(encoded(noise, "JPEG")[:-600])  # cut short
    (tmp_path / "train/a/3.png").write_bytes(b"")
    (tmp_path / "train/a/7.png").write_text("no image")
    (tmp_path / "train/b/7.png").write_bytes(encoded(noise)[:200])
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 5])
def test_damaged_files_are_counted_replaced_and_named(
    damaged: pathlib.Path, batch_size: int, gather: Gather, warnings: list[str]
) -> None:
    splits = data.load(f"folder:path={damaged},size=4", batch_size=batch_size, augment=False)
    assert splits.sizes["train"] == 16 and splits.steps == -(-16 // batch_size)
    for _ in range(2):
        images, labels = gather(splits.train)
        # The next of the split: 2 and 3 become 4, 7 the first b, and the last b the first a.
        expected = [10, 10, 11, 14, 14, 14, 15, 16, *range(110, 117), 110]
        assert sorted(_levels(images)) == sorted(expected)
        assert [level // 100 for level in _levels(images)] == labels.tolist()
    assert len(warnings) == 2 and warnings[0] == warnings[1]
    names = ", ".join(str(damaged / "train" / name) for name in ("a/2", "a/3", "a/7", "b/7"))
    assert warnings[0] == (
        "4 images could not be read in this pass and were replaced by the next readable "
        f"ones: {names.replace(',', '.png,')}.png."
    )


def test_the_same_images_are_replaced_after_a_restart(
    damaged: pathlib.Path, warnings: list[str]
) -> None:
    spec, kwargs = f"folder:path={damaged},size=4", {"batch_size": 3, "seed": 1}
    whole = list(data.load(spec, **kwargs).train.as_numpy_iterator())
    late = list(data.load(spec, first_step=2, **kwargs).train.as_numpy_iterator())
    assert len(late) == 4
    for (x, y), (late_x, late_y) in zip(whole[2:], late, strict=True):
        np.testing.assert_array_equal(x, late_x)
        np.testing.assert_array_equal(y, late_y)


def test_damaged_test_images_are_named_too(
    damaged: pathlib.Path, gather: Gather, warnings: list[str]
) -> None:
    (damaged / "test/a/0.png").write_bytes(b"")
    images, labels = gather(data.load(f"folder:path={damaged},size=4").test)
    assert _levels(images) == [212, 212, 214, 216, 211, 213, 215, 217]
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert len(warnings) == 1 and str(damaged / "test/a/0.png") in warnings[0]


def test_a_split_without_readable_images_raises(damaged: pathlib.Path, warnings: list[str]) -> None:
    for path in (damaged / "test").glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(Exception, match="No image of a batch could be read"):
        list(data.load(f"folder:path={damaged},size=4").test)


def test_other_files_are_named_and_hidden_ones_ignored(
    tmp_path: pathlib.Path, encoded: Callable[..., bytes], warnings: list[str]
) -> None:
    for name in "ab":
        for i in range(10):
            _grey(tmp_path, f"{name}/{i}.PNG", i, encoded)
        (tmp_path / name / "._0.png").write_bytes(b"a note")
    (tmp_path / "a" / "read me.txt").write_text("text")
    (tmp_path / ".git").mkdir()
    assert sum(data.load(f"folder:path={tmp_path},size=4").sizes.values()) == 20
    assert (
        len(warnings) == 1 and warnings[0].startswith("1 files in") and "read me.txt" in warnings[0]
    )


def test_pipes_devices_and_links_to_them_are_skipped_and_named(
    tmp_path: pathlib.Path, encoded: Callable[..., bytes], warnings: list[str]
) -> None:
    for name in "ab":
        for i in range(10):
            _grey(tmp_path, f"{name}/{i}.png", i, encoded)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "link.png").symlink_to("pipe.png")
    (tmp_path / "a" / "loop.png").symlink_to("loop.png")
    (tmp_path / "a" / "folder.png").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "image.png").symlink_to(tmp_path / "a" / "0.png")  # to an image
    assert sum(data.load(f"folder:path={tmp_path},size=4").sizes.values()) == 21
    assert len(warnings) == 1
    assert warnings[0].startswith(
        f'5 entries of "{tmp_path}" are ignored, since they are not files'
    )
    assert "a/device.png" in warnings[0] and "and 2 more" in warnings[0]


def test_an_unreadable_folder_is_named(
    tmp_path: pathlib.Path, encoded: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/private", "b"):
        _grey(tmp_path, f"{name}/0.png", 0, encoded)
    scandir, private = os.scandir, str(tmp_path / "a" / "private")

    def scan(path: str) -> object:  # permissions do not stop every user
        if os.fspath(path) == private:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(ValueError, match=f'The folder "{private}" cannot be read; give yourself'):
        data.load(f"folder:path={tmp_path},size=4")


def test_names_need_not_be_utf_8(
    tmp_path: pathlib.Path, encoded: Callable[..., bytes], gather: Gather, warnings: list[str]
) -> None:
    for name in "ab":
        for i in range(10):
            _grey(tmp_path, f"{name}/{i}.png", 200 + i, encoded)
    folder = os.fsencode(tmp_path)
    os.rename(folder + b"/a/9.png", folder + b"/a/\xff\xe9.png")
    os.rename(folder + b"/b", folder + b"/\xe9")
    with open(folder + b"/a/\xfe.png", "wb") as file:
        file.write(b"not an image")
    with open(folder + b"/a/\xfd.txt", "wb") as file:
        file.write(b"a text")
    splits = data.load(f"folder:path={tmp_path},size=4,test_share=0.5,validation_share=0.25")
    images = [gather(split)[0] for split in (splits.train, splits.validation, splits.test)]
    levels = _levels(np.concatenate(images))
    # Twenty images, and one more in place of the one that cannot be read.
    assert len(levels) == 21 and set(levels) == set(range(200, 210))
    assert any("\N{REPLACEMENT CHARACTER}.txt" in text for text in warnings)


def _empty_class(root: pathlib.Path) -> None:
    (root / "c").mkdir()


def _one_class(root: pathlib.Path) -> None:
    shutil.rmtree(root / "b")


def _no_class(root: pathlib.Path) -> None:
    shutil.rmtree(root / "a")
    shutil.rmtree(root / "b")


def _train_only(root: pathlib.Path) -> None:
    (root / "train").mkdir()


def _other_classes(root: pathlib.Path) -> None:
    for split, name in (("train", "b"), ("test", "c")):
        (root / split).mkdir()
        shutil.copytree(root / "a", root / split / "a")
        shutil.copytree(root / "a", root / split / name)


@pytest.mark.parametrize(
    ("change", "parameters", "error", "sentence"),
    [
        (None, "path=", ValueError, "is not of the form parameter=value"),
        (None, "size=8", ValueError, "needs the path of the images: folder:path=/data/mine"),
        (None, "path={}/absent", FileNotFoundError, 'absent" of images does not exist'),
        (None, "path={},size=0", ValueError, "at least 1, not 0"),
        (None, "path={},channels=2", TypeError, "one of 1, 3"),
        (None, "path={},crop=-1", ValueError, "at least 0"),
        (None, "path={},test_share=1.0", ValueError, "test_share must be a share"),
        (None, "path={},test_share=0.5,validation_share=0.5", ValueError, "leave no images"),
        (None, "path={},validation_share=0", ValueError, "The validation split is empty"),
        (_empty_class, "path={}", ValueError, r'The class folder ".*c" contains no images'),
        (_one_class, "path={}", ValueError, 'only the class folder "a"'),
        (_no_class, "path={}", ValueError, "contains no class folders"),
        (_train_only, "path={}", ValueError, "contains train, but splits need both train and test"),
        (
            _other_classes,
            "path={}",
            ValueError,
            "of the training images: b, c are in one",
        ),
    ],
)
def test_bad_input_ends_in_a_sentence(
    change: Any,
    parameters: str,
    error: type[Exception],
    sentence: str,
    tmp_path: pathlib.Path,
    encoded: Callable[..., bytes],
) -> None:
    for name in "ab":
        for i in range(10):
            _grey(tmp_path, f"{name}/{i}.png", i, encoded)
    if change is not None:
        change(tmp_path)
    with pytest.raises(error, match=sentence):
        data.load(f"folder:{parameters.format(tmp_path)}")


def test_a_folder_is_checked_without_tensorflow(tmp_path: pathlib.Path) -> None:
    script = (
        "import sys; from hydra_tf import data\n"
        f"try: data.load('folder:path={tmp_path}')\n"
        "except ValueError: sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
