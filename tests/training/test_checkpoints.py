"""Runs that are stopped and resumed give the same bits as uninterrupted ones."""

import errno
import os
import signal
import zipfile

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.training import Checkpoints, LoopOptions, PreemptionError, train
from hydra_tf.training.long_runs.checkpoints import RunPosition, restore_variables, variable_arrays
from tests.training.loops import STEPS, assert_same, make_model, phases, weights_of

TRADES = "trades:epsilon=0.1,steps=1,step_size=0.05,start=uniform"
PLAN = (1, 2, 1)


class StopError(Exception):
    pass


class StopAfter(keras.callbacks.Callback):
    """Calls ``action`` after a number of steps."""

    def __init__(self, steps, action):
        super().__init__()
        self.steps_left, self.action = steps, action

    def on_train_batch_end(self, batch, logs=None):
        self.steps_left -= 1
        if self.steps_left == 0:
            self.action()


def fault():
    raise StopError


def preempt():
    os.kill(os.getpid(), signal.SIGTERM)


def run(folder, validation, batches_from, *callbacks, every=0.0, average=None, objective="natural"):
    model = make_model(objective)
    options = LoopOptions(checkpoint_seconds=every, average=average)
    rows = []

    class Rows(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rows.append((epoch, dict(logs)))

    train(
        model,
        batches_from,
        STEPS,
        phases(*PLAN),
        validation_data=validation,
        callbacks=[Rows(), *callbacks],
        checkpoints=Checkpoints(folder),
        options=options,
        verbose=0,
    )
    return weights_of(model), rows


@pytest.mark.parametrize("average", [pytest.param(None, marks=pytest.mark.slow), 0.9])
def test_repeatedly_stopped_run_gives_the_same_bits(average, tmp_path, batches_from, validation):
    options = {"average": average, "objective": TRADES}
    whole, rows = run(tmp_path / "whole", validation, batches_from, **options)
    steps = sum(PLAN) * STEPS
    resumed, last = None, {}
    for stop_after in (3, 4, 7, steps):  # in the middle of a phase, at its last step, ...
        try:
            resumed, seen = run(
                tmp_path / "cut", validation, batches_from, StopAfter(stop_after, fault), **options
            )
        except StopError:
            continue
        last = dict(seen)
        break
    assert resumed is not None
    assert_same(resumed, whole)
    for epoch, logs in rows[-2:]:
        assert last[epoch] == logs  # metrics too, to the last bit


def test_sigterm_saves_a_checkpoint_of_the_current_step(tmp_path, batches_from, validation):
    whole, _ = run(tmp_path / "whole", validation, batches_from, every=1e9)
    with pytest.raises(PreemptionError, match="epoch 2, step 3"):
        run(tmp_path / "cut", validation, batches_from, StopAfter(7, preempt), every=1e9)
    # The signal arrives after the seventh step and is handled in the eighth.
    position, _ = Checkpoints(tmp_path / "cut").newest()
    assert position == RunPosition(1, 3)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed, _ = run(tmp_path / "cut", validation, batches_from, every=1e9)
    assert_same(resumed, whole)


def test_run_resumes_after_a_fault_at_the_end_of_an_epoch(tmp_path, validation):
    def batches_from(epoch, step):
        data = hydra_tf.data.load("digits", batch_size=300, first_epoch=epoch, first_step=step)
        return data.train.repeat().take(5 * 2 + 1)

    def run_natural(folder, *callbacks):
        model = make_model("natural")
        options = LoopOptions(checkpoint_seconds=0.0)
        kwargs = {"validation_data": validation, "options": options, "verbose": 0}
        store = Checkpoints(folder)
        steps = hydra_tf.data.load("digits", batch_size=300).steps
        train(
            model, batches_from, steps, phases(2), callbacks=callbacks, checkpoints=store, **kwargs
        )
        return weights_of(model)

    class FaultAtTheEnd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise StopError

    with pytest.raises(StopError):
        run_natural(tmp_path / "cut", FaultAtTheEnd())
    assert Checkpoints(tmp_path / "cut").newest()[0] == RunPosition(0, 5)
    assert_same(run_natural(tmp_path / "cut"), run_natural(tmp_path / "whole"))


def test_late_sigterm_reaches_the_previous_handler(batches_from):
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))

    class AfterTheLastEpoch(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            preempt()

    try:
        train(
            make_model("natural"), batches_from, STEPS, phases(1), callbacks=[AfterTheLastEpoch()],
            verbose=0,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [True]


def test_finished_run_trains_no_steps(tmp_path, batches_from, validation):
    whole, _ = run(tmp_path, validation, batches_from, every=1e9)
    again, rows = run(tmp_path, validation, batches_from, StopAfter(1, fault))
    assert_same(again, whole)
    assert rows == []


def test_damaged_checkpoint_is_skipped(tmp_path, batches_from, validation, caplog):
    whole, _ = run(tmp_path / "whole", validation, batches_from, every=1e9)
    with pytest.raises(StopError):
        run(tmp_path / "cut", validation, batches_from, StopAfter(8, fault))
    newest = max((tmp_path / "cut").glob("at-*.npz"))
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    position, _ = Checkpoints(tmp_path / "cut").newest()
    assert position == RunPosition(1, 1)  # the eighth step ended before its checkpoint was due
    resumed, _ = run(tmp_path / "cut", validation, batches_from, every=1e9)
    assert_same(resumed, whole)


def test_a_broken_bzip2_member_is_passed_over(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(RunPosition(0, 1), {"a": np.arange(1000.0)})
    store.save(RunPosition(0, 2), {"a": np.arange(1000.0) + 1})
    newest = tmp_path / "at-00000-000000002.npz"
    with zipfile.ZipFile(newest) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(newest, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert store.newest()[0] == RunPosition(0, 2)
    content = bytearray(newest.read_bytes())
    content[80] ^= 0xFF  # in the compressed array
    newest.write_bytes(content)
    position, arrays = store.newest()
    assert position == RunPosition(0, 1)
    np.testing.assert_array_equal(arrays["a"], np.arange(1000.0))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_every_kind_of_damage_is_detected(damage, tmp_path):
    store = Checkpoints(tmp_path)
    store.save(RunPosition(0, 1), {"a": np.arange(1000.0)})
    store.save(RunPosition(0, 2), {"a": np.arange(1000.0) + 1})
    newest = tmp_path / "at-00000-000000002.npz"
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes(
        {"cut": content[:-9], "flip": content, "empty": b"", "foreign": b"x"}[damage]
    )
    position, arrays = store.newest()
    assert position == RunPosition(0, 1)
    np.testing.assert_array_equal(arrays["a"], np.arange(1000.0))


def test_flipped_bits_are_detected(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(RunPosition(0, 1), {"a": np.arange(3.0), "b": np.arange(2)})
    store.save(RunPosition(0, 2), {"a": np.arange(3.0) + 1, "b": np.arange(2)})
    newest = tmp_path / "at-00000-000000002.npz"
    content = newest.read_bytes()
    for offset in range(len(content)):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << offset % 8
        newest.write_bytes(flipped)
        position, arrays = store.newest()
        # Bits that do not affect the arrays, such as time stamps, may change.
        assert set(arrays) == {"a", "b"}
        np.testing.assert_array_equal(arrays["a"], np.arange(3.0) + (position == RunPosition(0, 2)))


def test_oldest_checkpoints_are_deleted(tmp_path):
    store = Checkpoints(tmp_path, keep=3)
    for position in (
        RunPosition(0, 5),
        RunPosition(0, 9),
        RunPosition(1, 0),
        RunPosition(9, 2),
        RunPosition(10, 0),
    ):
        store.save(position, {"a": np.zeros(1)})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "at-00001-000000000.npz",
        "at-00009-000000002.npz",
        "at-00010-000000000.npz",
    ]
    assert store.newest()[0] == RunPosition(10, 0)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(RunPosition(0, 1), {"a": np.zeros(1)})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"No space left on device.*from the previous checkpoint"):
        store.save(RunPosition(0, 2), {"a": np.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["at-00000-000000001.npz"]
    assert store.newest()[0] == RunPosition(0, 1)


def test_damaged_checkpoints_are_deleted_first(tmp_path):
    for step in (8, 9):
        (tmp_path / f"at-00000-{step:09d}.npz").write_bytes(b"cut short")
    store = Checkpoints(tmp_path)
    store.save(RunPosition(0, 5), {"a": np.zeros(1)})
    assert store.newest()[0] == RunPosition(0, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["at-00000-000000005.npz"]


def test_only_the_chief_writes(tmp_path):
    Checkpoints(tmp_path / "none", writes=False).save(RunPosition(0, 1), {"a": np.zeros(1)})
    assert not (tmp_path / "none").exists()


def test_the_checkpoint_of_another_run_is_refused():
    small, large = keras.Variable(np.zeros(2)), keras.Variable(np.zeros(3))
    with pytest.raises(ValueError, match="belongs to another run"):
        restore_variables([large], "model", variable_arrays([small], "model"))
    with pytest.raises(ValueError, match="belongs to another run"):
        restore_variables([small], "model", variable_arrays([small, small], "model"))
    with pytest.raises(ValueError, match="at least 2"):
        Checkpoints("anywhere", keep=1)


def test_batch_with_nan_loss_is_saved(tmp_path, batches_from):
    model = make_model("natural")

    class SetNaN(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                kernel = self.model.net.layers[-1].kernel
                kernel.assign(np.full(kernel.shape, np.nan, "float32"))

    path = tmp_path / "bad_batches.npz"
    with pytest.raises(FloatingPointError, match="epoch 1, step 3"):
        train(
            model,
            batches_from,
            STEPS,
            phases(1),
            callbacks=[SetNaN()],
            bad_batches_path=str(path),
            verbose=0,
        )
    with np.load(path) as saved:
        assert (int(saved["epoch"]), int(saved["step"])) == (0, 2)
        images, labels = next(iter(batches_from(0, 2)))
        np.testing.assert_array_equal(saved["images"], images)
        np.testing.assert_array_equal(saved["labels"], labels)
