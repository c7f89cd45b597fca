"""Passes are functions of (seed, number, position): skipping does not change what follows."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import data
from hydra_tf.data.passes import random_pair, shuffled

# The default global seed of TensorFlow.
UNSET = 87654321
Specs = dict[str, str]


def _batches(dataset: tf.data.Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(dataset.as_numpy_iterator())


def _assert_same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for (x, y), (other_x, other_y) in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


@pytest.mark.parametrize("seed", [0, 5, 2**31 - 1, 2**40])
def test_passes_have_the_order_of_dataset_shuffle(seed: int) -> None:
    """Published results depend on that order."""
    tf.random.set_seed(UNSET)
    old = tf.data.Dataset.range(50).shuffle(50, seed=seed, reshuffle_each_iteration=True)
    for n in range(5):
        seeds = random_pair([UNSET, seed % (2**31 - 1)], n)
        new = shuffled(tf.data.Dataset.range(50), 50, seeds)
        assert list(new.as_numpy_iterator()) == list(old.as_numpy_iterator())


def test_batches_equal_those_of_the_pipeline_of_published_results() -> None:
    tf.random.set_seed(UNSET)
    source = data.build("digits:crop=1,flip=true")()
    old = source.train.shuffle(1257, seed=6, reshuffle_each_iteration=True).batch(100)
    seeds = tf.data.Dataset.random(seed=6, rerandomize_each_iteration=True).batch(2)
    old = tf.data.Dataset.zip((old, seeds)).map(
        lambda xy, pair: (source.augment(xy[0], pair), xy[1])
    )
    new = data.load("digits:crop=1,flip=true", batch_size=100, seed=6).train
    for _ in range(3):
        _assert_same(_batches(new), _batches(old))


@pytest.mark.parametrize(
    "name",
    ["digits", *(pytest.param(name, marks=pytest.mark.slow) for name in ("folder", "imagenet"))],
)
def test_a_resumed_run_with_extra_images_continues_as_the_uninterrupted_one(
    name: str, offline_specs: Specs
) -> None:
    spec = offline_specs[name]
    kwargs = {"batch_size": 300 if name == "digits" else 7, "seed": 4}
    kwargs["extra"] = f"{spec},share=0.4"
    whole = data.load(spec, **kwargs)
    passes = [_batches(whole.train) for _ in range(2)]
    assert all(len(batches) == whole.steps for batches in passes)
    assert not np.array_equal(passes[0][0][0], passes[1][0][0])
    late = data.load(spec, first_epoch=0, first_step=whole.steps - 2, **kwargs)
    following = [*passes[0][-2:], *passes[1]]
    _assert_same(_batches(late.train.repeat().take(len(following))), following)
    _assert_same(_batches(whole.train_pass(1, 2)), passes[1][2:])
    _assert_same(_batches(data.load(spec, first_epoch=1, **kwargs).train), passes[1])


def test_skipped_images_are_not_decoded() -> None:
    decoded: list[int] = []

    def note(position: np.ndarray) -> np.ndarray:
        decoded.append(int(position))
        return np.full((2, 2, 1), position, np.uint8)

    def decode(record: tf.Tensor, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.numpy_function(note, [record], tf.uint8)
        return tf.ensure_shape(image, [2, 2, 1]), record

    def source() -> data.Source:
        records = tf.data.Dataset.range(100)
        return data.Source(records, records.take(1), records.take(1), 100, decode=decode)

    late = _batches(data.load(source, batch_size=10, first_step=7).train)
    assert sorted(decoded) == sorted(np.concatenate([y for _, y in late]))
    assert len(decoded) == 30


def test_a_stream_is_not_read_far_ahead() -> None:
    """Memory is bounded by the buffer and the prefetched batches, not by the data set."""
    read = itertools.count()

    def note(record: np.ndarray) -> np.ndarray:
        next(read)
        return record

    def source() -> data.Source:
        size = 20_000
        records = tf.data.Dataset.range(size)

        def order(seeds: tf.Tensor) -> tf.data.Dataset:
            seen = records.map(lambda r: tf.numpy_function(note, [r], tf.int64))
            return shuffled(seen.map(lambda r: tf.ensure_shape(r, [])), 64, seeds)

        def decode(record: tf.Tensor, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.zeros([1, 1, 1], tf.uint8), record

        return data.Source(records, records.take(1), records.take(1), 2, decode=decode, order=order)

    batches = iter(data.load(source, batch_size=4).train)
    for _ in range(25):
        next(batches)
    # The place of the last image in the shuffle buffer may not be filled again yet.
    assert 100 + 63 <= next(read) < 2_000


def test_shuffle_buffers_hold_encoded_images_or_indices(offline_specs: Specs) -> None:
    seeds = tf.constant([1, 2], tf.int64)
    for name in ("imagenet", "imagenette", "folder"):
        source = data.build(offline_specs[name])()
        kinds = {source.train.element_spec.dtype, source.order(seeds).element_spec.dtype}
        assert kinds <= {tf.string, tf.int64} and len(kinds) == 1


def test_images_are_bytes_up_to_the_last_function_on_a_batch(offline_specs: Specs) -> None:
    for name in ("npz", "folder", "cifar10", "imagenet"):
        source = data.build(offline_specs[name])()
        example = source.train
        if source.decode is not None:
            example = example.map(lambda r, decode=source.decode: decode(r, None))
        assert example.element_spec[0].dtype == tf.uint8


def test_keras_has_another_pass_in_every_epoch(npz_path: pathlib.Path) -> None:
    splits = data.load(f"npz:path={npz_path}", batch_size=16, seed=2)
    seen: list[np.ndarray] = []

    class Spy(keras.Model):
        def train_step(self, batch: Any) -> dict[str, Any]:
            seen.append(batch[0].numpy())
            return {"loss": 0.0}

    model = Spy()
    model.compile(run_eagerly=True)
    model.build((None, 8, 8, 1))
    model.fit(splits.train, epochs=2, verbose=0)
    expected = [x for n in range(2) for x, _ in _batches(splits.train_pass(n))]
    assert len(seen) == len(expected) == 2 * splits.steps
    for x, expected_x in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(x, expected_x)


def test_replicas_have_slices_of_the_batches(
    npz_path: pathlib.Path, two_replicas: tf.distribute.MirroredStrategy
) -> None:
    spec, how = f"npz:path={npz_path}", {"batch_size": 10, "seed": 1}
    how["extra"] = f"npz:path={npz_path},share=0.4"
    plain = _batches(data.load(spec, **how).train)
    with two_replicas.scope():
        train = data.load(spec, **how).train
    shared = two_replicas.experimental_distribute_dataset(train)
    for (x, y), batch in zip(plain, shared, strict=True):
        parts = [two_replicas.experimental_local_results(part) for part in batch]
        np.testing.assert_array_equal(np.concatenate(parts[0]), x)
        np.testing.assert_array_equal(np.concatenate(parts[1]), y)
        assert len(parts[1][0]) == -(-len(y) // 2)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"first_step": -1}, ValueError, "first_step must be at least 0"),
        ({"first_step": 1.0}, TypeError, "first_step must be a whole number"),
        ({"first_step": 13, "batch_size": 100}, ValueError, "beyond the 13 batches of a pass"),
    ],
)
def test_a_step_beyond_the_pass_raises(
    options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        data.load("digits", **options)
