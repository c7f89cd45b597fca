"""A worker decodes its slice of every batch, and nothing else differs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import data
from hydra_tf.core.pixels import unit_floats
from hydra_tf.data.extra_images import interleaved_order
from hydra_tf.data.unreadable import OTHER_WORKER_LABEL, UNREADABLE_LABEL, replace_unreadable
from hydra_tf.data.worker_slices import WorkerSlice


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("extra", [0, 1, 4])
def test_slices_equal_those_of_the_replicas_by_brute_force(workers: int, extra: int) -> None:
    size, labelled, steps = 23, 5, 5
    found: dict[int, list[tuple[int, int, int]]] = {}
    for worker in range(workers):
        own = WorkerSlice(worker, workers, size, labelled, steps, extra)
        found[worker] = [(0, 0, p) for p in range(size) if own.has_labelled(p)]
        found[worker] += [(0, 1, p) for p in range(2 * 5 * extra) if extra and own.has_extra(p)]
    wanted: dict[int, list[tuple[int, int, int]]] = {worker: [] for worker in range(workers)}
    for step in range(2 * 5):
        count = min(labelled, size - step % 5 * labelled)
        rows = [(0, 0, step % 5 * labelled + i) for i in range(count)]
        rows += [(0, 1, step * extra + i) for i in range(extra)]
        rows = [rows[i] for i in interleaved_order((count, extra)).numpy()] if extra else rows
        for worker in range(workers):
            share = range(len(rows) * worker // workers, len(rows) * (worker + 1) // workers)
            wanted[worker] += [rows[i] for i in share if rows[i][1] or step < 5]
    for worker in range(workers):
        assert sorted(found[worker]) == sorted(wanted[worker])


@pytest.mark.parametrize(
    ("name", "share", "drop"),
    [
        pytest.param("folder", None, False, marks=pytest.mark.slow(seconds=10)),
        pytest.param("folder", 0.15, False, marks=pytest.mark.slow),
        pytest.param("folder", 0.85, True, marks=pytest.mark.slow(seconds=15)),
        ("imagenet", None, False),
        pytest.param("imagenet", 0.4, True, marks=pytest.mark.slow),
        ("digits", 0.4, False),
    ],
)
def test_slices_of_workers_make_up_the_batches_of_one_worker(
    name: str, share: float | None, drop: bool, offline_specs: dict[str, str]
) -> None:
    spec = offline_specs[name]
    how = {"batch_size": 7 if name != "digits" else 300, "seed": 2, "first_step": 2}
    how["drop_remainder"] = drop
    if share:
        how["extra"] = f"{spec},share={share}"
    whole = list(data.load(spec, **how).train.repeat().take(9).as_numpy_iterator())
    for worker in range(2):
        own = data.load(spec, worker=(worker, 2), **how).train.repeat().take(9)
        for (x, y), (own_x, own_y) in zip(whole, own.as_numpy_iterator(), strict=True):
            first, end = (len(y) * (worker + i) // 2 for i in (0, 1))
            np.testing.assert_array_equal(own_x[first:end], x[first:end])
            np.testing.assert_array_equal(own_y[first:end], y[first:end])
            if name != "digits":  # which need no decoding
                others = np.delete(np.arange(len(y)), np.s_[first:end])
                assert not own_x[others].any()
                assert (own_y[others] == OTHER_WORKER_LABEL).all()


def test_a_worker_number_out_of_range_raises() -> None:
    with pytest.raises(ValueError, match=r"not \(2, 2\)"):
        data.load("digits", worker=(2, 2))


def test_placeholders_of_other_workers_replace_no_unreadable_image() -> None:
    images = tf.reshape(tf.range(5.0), [5, 1, 1, 1])
    labels = tf.constant([OTHER_WORKER_LABEL, UNREADABLE_LABEL, OTHER_WORKER_LABEL, 3, 4])
    replaced = replace_unreadable(images, labels)
    assert replaced[1].numpy()[1] == 3
    assert replaced[0].numpy().ravel()[1] == 3.0
    assert replaced[1].numpy()[3:].tolist() == [3, 4]


def test_last_batch_is_the_size_of_the_last_batch() -> None:
    for how in ({}, {"extra": "digits:share=0.5"}, {"drop_remainder": True}, {"batch_size": 9999}):
        splits = data.load("digits", **{"batch_size": 314, **how})
        assert splits.last_batch == [len(y) for _, y in splits.train.as_numpy_iterator()][-1]


@pytest.mark.parametrize(
    "name",
    ["npz", "cifar10", "folder", pytest.param("imagenet", marks=pytest.mark.slow(seconds=15))],
)
def test_bytes_convert_to_the_usual_floats(name: str, offline_specs: dict[str, str]) -> None:
    spec = offline_specs[name]
    floats = data.load(spec, batch_size=7).train.as_numpy_iterator()
    held = data.load(spec, batch_size=7, as_bytes=True).train
    assert held.element_spec[0].dtype == tf.uint8
    for (x, y), (bytes_, labels) in zip(floats, held.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(unit_floats(tf.constant(bytes_)), x)
        np.testing.assert_array_equal(labels, y)


def test_augmentations_that_need_floats_have_floats(offline_specs: dict[str, str]) -> None:
    def darker(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return images * 0.5

    for how in ({"augment": darker}, {"extra": "digits"}):
        spec = offline_specs["npz"]
        train = data.load(spec, batch_size=8, as_bytes=True, **how).train
        assert train.element_spec[0].dtype == tf.float32
        assert next(iter(train))[0].numpy().max() <= 1.0
