"""Resumed runs restore the state of callbacks and refuse checkpoints of other runs."""

import json

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.core.files import unfinished
from hydra_tf.training import Checkpoints, LoopOptions, train
from hydra_tf.training.long_runs.callback_state import callback_state, restore_callback_state
from hydra_tf.training.long_runs.checkpoints import RunPosition
from tests.training.loops import (
    STEPS,
    FaultAfter,
    StopError,
    assert_same,
    make_model,
    phases,
    weights_of,
)


def run(folder, batches_from, validation, *callbacks, plan=(8,), model=None, **options):
    model = model or make_model("natural")
    epochs = []

    class Epochs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            epochs.append(epoch)

    train(
        model, batches_from, STEPS, phases(*plan, **options), validation_data=validation,
        callbacks=[Epochs(), *callbacks], checkpoints=Checkpoints(folder),
        options=LoopOptions(checkpoint_seconds=0.0), verbose=0,
    )  # fmt: skip
    return weights_of(model), epochs


def early_stopping():
    """Return a callback that stops in the fourth epoch: no loss improves by ``min_delta``."""
    return keras.callbacks.EarlyStopping(
        "val_loss", patience=3, min_delta=100.0, restore_best_weights=True
    )


def test_patience_is_restored(tmp_path, batches_from, validation):
    whole, epochs = run(tmp_path / "whole", batches_from, validation, early_stopping())
    assert epochs == [0, 1, 2, 3]
    with pytest.raises(StopError):
        run(tmp_path / "cut", batches_from, validation, early_stopping(), FaultAfter(2 * STEPS + 2))
    resumed, epochs = run(tmp_path / "cut", batches_from, validation, early_stopping())
    assert epochs == [2, 3]
    assert_same(resumed, whole)


def test_early_stopped_run_is_finished(tmp_path, batches_from, validation):
    whole, _ = run(tmp_path, batches_from, validation, early_stopping())
    again, epochs = run(tmp_path, batches_from, validation, early_stopping())
    assert epochs == []
    assert_same(again, whole)


def test_plateau_count_is_restored(tmp_path, batches_from, validation):
    def plateau():
        return keras.callbacks.ReduceLROnPlateau(
            "val_loss", factor=0.5, patience=3, min_delta=100.0
        )

    options = {"plan": (5,), "schedule": None}
    whole, _ = run(tmp_path / "whole", batches_from, validation, plateau(), **options)
    with pytest.raises(StopError):
        run(
            tmp_path / "cut",
            batches_from,
            validation,
            plateau(),
            FaultAfter(2 * STEPS + 2),
            **options,
        )
    model = make_model("natural")
    resumed, _ = run(tmp_path / "cut", batches_from, validation, plateau(), model=model, **options)
    assert_same(resumed, whole)


def test_best_value_of_a_model_checkpoint_is_restored(tmp_path):
    path = str(tmp_path / "best.weights.h5")
    first, other = (
        keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_best_only=True)
        for _ in range(2)
    )
    first.best = 0.25
    restore_callback_state([keras.callbacks.LambdaCallback(), other], callback_state([first]))
    assert other.best == 0.25


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"density": 0.2}, "density"),
        ({"plan": (7,)}, "phases"),
        ({"warmup": 0.2}, "learning rate"),
        ({"seed": 1}, "seed"),
        ({"restore_best": False}, "best epoch"),
        ({"objective": "pgd:epsilon=0.1,steps=1"}, "objective"),
        ({"optimizer": keras.optimizers.SGD(0.1, momentum=0.8)}, "optimizer"),
    ],
)
def test_refused_checkpoint_names_the_difference(
    change, difference, tmp_path, batches_from, validation
):
    with pytest.raises(StopError):
        run(tmp_path, batches_from, None, FaultAfter(2))
    model = make_model(change.pop("objective", "natural"))
    model.seed = change.pop("seed", model.seed)
    if "optimizer" in change:
        model.compile(change.pop("optimizer"))
    with pytest.raises(ValueError, match=rf"another run, which differs in: {difference}; name"):
        run(tmp_path, batches_from, None, model=model, **change)


def test_changed_labels_are_noticed(tmp_path, batches_from):
    def relabelled(epoch, step):
        return batches_from(epoch, step).map(lambda x, y: (x, 9 - y))

    with pytest.raises(StopError):
        run(tmp_path, batches_from, None, FaultAfter(2))
    with pytest.raises(
        ValueError, match=r"training images or labels, or their order, have changed since the check"
    ):
        run(tmp_path, relabelled, None)


def test_checkpoints_know_the_hash_of_their_data(tmp_path, batches_from):
    def train_with(data_hash, *callbacks):
        train(
            make_model("natural"), batches_from, STEPS, phases(1), callbacks=callbacks,
            checkpoints=Checkpoints(tmp_path), options=LoopOptions(checkpoint_seconds=0.0),
            data_hash=data_hash, verbose=0,
        )  # fmt: skip

    with pytest.raises(StopError):
        train_with("abc", FaultAfter(2))
    with pytest.raises(ValueError, match=r"restore them .a shuffled dataset"):
        train_with("abd")
    # A checkpoint of an older version has no hash.
    store = Checkpoints(tmp_path)
    position, arrays = store.newest()
    stored = json.loads(str(arrays["run"]))
    del stored["data"]
    store.save(RunPosition(0, position.step + 1), {**arrays, "run": json.dumps(stored)})
    train_with("abd")
    assert store.newest()[0] == RunPosition(1, 0)


def test_devices_may_change(tmp_path, batches_from, validation, two_replicas):
    whole, _ = run(tmp_path / "whole", batches_from, validation, plan=(2,))
    with pytest.raises(StopError):
        run(tmp_path / "cut", batches_from, validation, FaultAfter(STEPS + 2), plan=(2,))
    model = make_model("natural", two_replicas)
    resumed, _ = run(tmp_path / "cut", batches_from, validation, plan=(2,), model=model)
    assert_same(resumed, whole, atol=2e-4)


def test_stop_before_the_first_step_trains_nothing(batches_from, validation):
    for when in ("on_train_begin", "on_epoch_begin"):
        model = make_model("natural")
        before = weights_of(model)

        class Stop(keras.callbacks.Callback):
            def stop(self, *_, **__):
                self.model.stop_training = True

        stop = Stop()
        setattr(stop, when, stop.stop)
        pipeline = phases(2)
        logs = train(
            model,
            batches_from,
            STEPS,
            pipeline,
            validation_data=validation,
            callbacks=[stop],
            verbose=0,
        )
        assert logs == {}
        assert_same(weights_of(model), before)


def test_stop_within_an_epoch_is_restored(tmp_path, batches_from, validation):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.stop_training = True

    class FaultInValidation(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            raise StopError

    # The fault comes after the checkpoint of the third step, before the end of the epoch.
    whole, epochs = run(tmp_path / "whole", batches_from, validation, Stop())
    assert epochs == [0]
    with pytest.raises(StopError):
        run(tmp_path / "cut", batches_from, validation, Stop(), FaultInValidation())
    assert Checkpoints(tmp_path / "cut").newest()[0] == RunPosition(0, 3)
    resumed, epochs = run(tmp_path / "cut", batches_from, validation, Stop())
    assert epochs == [0]
    assert_same(resumed, whole)


def test_bad_batch_is_saved_after_a_restart(tmp_path, batches_from, validation):
    class SetNaN(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == STEPS - 1:
                bias = self.model.net.layers[-1].bias
                bias.assign(np.full(bias.shape, np.nan, "float32"))

    class FaultInValidation(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            raise StopError

    folder, path = tmp_path / "cut", tmp_path / "bad_batches.npz"
    with pytest.raises(StopError):
        run(folder, batches_from, validation, SetNaN(), FaultInValidation())
    with pytest.raises(FloatingPointError):
        train(
            make_model("natural"), batches_from, STEPS, phases(8), validation_data=validation,
            checkpoints=Checkpoints(folder), bad_batches_path=str(path), verbose=0,
        )  # fmt: skip
    with np.load(path) as saved:
        assert int(saved["step"]) == STEPS - 1


def test_learning_rate_is_restored_after_a_last_restart(tmp_path, batches_from):
    class FaultAtTheEnd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise StopError

    with pytest.raises(StopError):
        run(tmp_path, batches_from, None, FaultAtTheEnd(), plan=(1,))
    model = make_model("natural")
    run(tmp_path, batches_from, None, plan=(1,), model=model)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_unfinished_checkpoints_are_deleted(tmp_path):
    store = Checkpoints(tmp_path)
    unfinished(tmp_path / "at-00000-000000007.npz").write_bytes(b"half")
    store.save(RunPosition(0, 9), {"a": np.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["at-00000-000000009.npz"]


def test_callbacks_are_called_in_validation(batches_from, validation):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append("begin")

        def on_test_batch_end(self, batch, logs=None):
            seen.append(batch)

        def on_test_end(self, logs=None):
            seen.append(sorted(logs))

    train(
        make_model("natural"), batches_from, STEPS, phases(1), validation_data=validation,
        callbacks=[Watch()], verbose=0,
    )  # fmt: skip
    count = int(validation.cardinality())
    assert seen == ["begin", *range(count), ["accuracy", "loss"]]


def test_batch_before_nan_weights_is_saved(tmp_path, batches_from):
    class SetNaN(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == STEPS - 1:
                bias = self.model.net.layers[-1].bias
                bias.assign(np.full(bias.shape, np.nan, "float32"))

    path = tmp_path / "bad_batches.npz"
    with pytest.raises(FloatingPointError, match=r"became NaN or infinite by the end of epoch 1"):
        train(
            make_model("natural"), batches_from, STEPS, phases(1), callbacks=[SetNaN()],
            bad_batches_path=str(path), verbose=0,
        )  # fmt: skip
    with np.load(path) as saved:
        assert (int(saved["epoch"]), int(saved["step"])) == (0, STEPS - 1)
        np.testing.assert_array_equal(saved["labels"], next(iter(batches_from(0, STEPS - 1)))[1])


def test_bytes_and_floats_train_the_same_weights(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (150, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=rng.integers(0, 10, 150))
    weights = []
    for as_bytes in (False, True):

        def batches(epoch, step, as_bytes=as_bytes):
            splits = hydra_tf.data.load(
                f"npz:path={tmp_path / 'some.npz'}", batch_size=32, first_epoch=epoch,
                first_step=step, as_bytes=as_bytes,
            )  # fmt: skip
            return splits.train.repeat()

        model = make_model()
        train(model, batches, 3, phases(1, 1), verbose=0)
        weights.append(weights_of(model))
    assert_same(*weights)
