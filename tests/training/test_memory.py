"""A run that goes on knows what its callbacks knew, and whose checkpoint it has found."""

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.core.files import unfinished
from hydra_tf.training import Checkpoints, LoopOptions, train
from hydra_tf.training.long_runs.callback_state import callback_state, restore_callback_state
from hydra_tf.training.long_runs.checkpoints import RunPosition
from tests.training.loops import STEPS, assert_same, make, phases, weights_of


class StopError(Exception):
    pass


class FaultAfter(keras.callbacks.Callback):
    """Ends a run after so many steps, as a fault would."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise StopError


def run(folder, batches_from, validation, *callbacks, plan=(8,), model=None, **how):
    model = model or make("natural")
    epochs = []

    class Epochs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            epochs.append(epoch)

    train(
        model, batches_from, STEPS, phases(*plan, **how), validation_data=validation,
        callbacks=[Epochs(), *callbacks], checkpoints=Checkpoints(folder),
        options=LoopOptions(checkpoint_seconds=0.0), verbose=0,
    )  # fmt: skip
    return weights_of(model), epochs


def early():
    """Patience ends in the fourth epoch: no improvement is ever enough."""
    return keras.callbacks.EarlyStopping(
        "val_loss", patience=3, min_delta=100.0, restore_best_weights=True
    )


def test_patience_goes_on_where_it_was(tmp_path, batches_from, validation):
    whole, epochs = run(tmp_path / "whole", batches_from, validation, early())
    assert epochs == [0, 1, 2, 3]
    with pytest.raises(StopError):
        run(tmp_path / "cut", batches_from, validation, early(), FaultAfter(2 * STEPS + 2))
    resumed, epochs = run(tmp_path / "cut", batches_from, validation, early())
    assert epochs == [2, 3]
    assert_same(resumed, whole)


def test_a_run_that_was_stopped_early_is_at_its_end(tmp_path, batches_from, validation):
    whole, _ = run(tmp_path, batches_from, validation, early())
    again, epochs = run(tmp_path, batches_from, validation, early())
    assert epochs == []
    assert_same(again, whole)


def test_a_plateau_is_counted_on(tmp_path, batches_from, validation):
    def plateau():
        return keras.callbacks.ReduceLROnPlateau(
            "val_loss", factor=0.5, patience=3, min_delta=100.0
        )

    how = {"plan": (5,), "schedule": None}
    whole, _ = run(tmp_path / "whole", batches_from, validation, plateau(), **how)
    with pytest.raises(StopError):
        run(tmp_path / "cut", batches_from, validation, plateau(), FaultAfter(2 * STEPS + 2), **how)
    model = make("natural")
    resumed, _ = run(tmp_path / "cut", batches_from, validation, plateau(), model=model, **how)
    assert_same(resumed, whole)


def test_the_best_value_of_a_model_checkpoint_is_known(tmp_path):
    path = str(tmp_path / "best.weights.h5")
    first, other = (
        keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_best_only=True)
        for _ in range(2)
    )
    first.best = 0.25
    restore_callback_state([keras.callbacks.LambdaCallback(), other], callback_state([first]))
    assert other.best == 0.25


@pytest.mark.parametrize(
    ("change", "named"),
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
def test_the_checkpoint_of_another_run_is_refused_by_name(
    change, named, tmp_path, batches_from, validation
):
    with pytest.raises(StopError):
        run(tmp_path, batches_from, None, FaultAfter(2))
    model = make(change.pop("objective", "natural"))
    model.seed = change.pop("seed", model.seed)
    if "optimizer" in change:
        model.compile(change.pop("optimizer"))
    with pytest.raises(ValueError, match=rf"another run, which differs in: {named}; name"):
        run(tmp_path, batches_from, None, model=model, **change)


def test_devices_and_parts_may_change(tmp_path, batches_from, validation, two_replicas):
    whole, _ = run(tmp_path / "whole", batches_from, validation, plan=(2,))
    with pytest.raises(StopError):
        run(tmp_path / "cut", batches_from, validation, FaultAfter(STEPS + 2), plan=(2,))
    model = make("natural", two_replicas)
    resumed, _ = run(tmp_path / "cut", batches_from, validation, plan=(2,), model=model)
    assert_same(resumed, whole, atol=2e-4)


def test_a_stop_before_the_first_step_makes_none(batches_from, validation):
    for when in ("on_train_begin", "on_epoch_begin"):
        model = make("natural")
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


def test_a_stop_within_an_epoch_is_kept(tmp_path, batches_from, validation):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.stop_training = True

    class FaultInValidation(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            raise StopError

    # Between the two: a checkpoint of the third step, and no end of the epoch.
    whole, epochs = run(tmp_path / "whole", batches_from, validation, Stop())
    assert epochs == [0]
    with pytest.raises(StopError):
        run(tmp_path / "cut", batches_from, validation, Stop(), FaultInValidation())
    assert Checkpoints(tmp_path / "cut").newest()[0] == RunPosition(0, 3)
    resumed, epochs = run(tmp_path / "cut", batches_from, validation, Stop())
    assert epochs == [0]
    assert_same(resumed, whole)


def test_weights_ruined_before_a_restart_are_told_by_their_batch(
    tmp_path, batches_from, validation
):
    class Ruin(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == STEPS - 1:
                bias = self.model.net.layers[-1].bias
                bias.assign(np.full(bias.shape, np.nan, "float32"))

    class FaultInValidation(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            raise StopError

    folder, path = tmp_path / "cut", tmp_path / "suspects.npz"
    with pytest.raises(StopError):
        run(folder, batches_from, validation, Ruin(), FaultInValidation())
    with pytest.raises(FloatingPointError):
        train(
            make("natural"), batches_from, STEPS, phases(8), validation_data=validation,
            checkpoints=Checkpoints(folder), bad_batches_path=str(path), verbose=0,
        )  # fmt: skip
    with np.load(path) as kept:
        assert int(kept["step"]) == STEPS - 1


def test_the_compiled_rate_comes_back_after_a_restart_at_the_end(tmp_path, batches_from):
    class FaultAtTheEnd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise StopError

    with pytest.raises(StopError):
        run(tmp_path, batches_from, None, FaultAtTheEnd(), plan=(1,))
    model = make("natural")
    run(tmp_path, batches_from, None, plan=(1,), model=model)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_what_was_left_of_a_checkpoint_goes(tmp_path):
    store = Checkpoints(tmp_path)
    unfinished(tmp_path / "at-00000-000000007.npz").write_bytes(b"half")
    store.save(RunPosition(0, 9), {"a": np.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["at-00000-000000009.npz"]


def test_callbacks_see_the_validation(batches_from, validation):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append("begin")

        def on_test_batch_end(self, batch, logs=None):
            seen.append(batch)

        def on_test_end(self, logs=None):
            seen.append(sorted(logs))

    train(
        make("natural"), batches_from, STEPS, phases(1), validation_data=validation,
        callbacks=[Watch()], verbose=0,
    )  # fmt: skip
    count = int(validation.cardinality())
    assert seen == ["begin", *range(count), ["accuracy", "loss"]]


def test_the_batch_that_ruins_the_weights_is_kept(tmp_path, batches_from):
    class Ruin(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == STEPS - 1:
                bias = self.model.net.layers[-1].bias
                bias.assign(np.full(bias.shape, np.nan, "float32"))

    path = tmp_path / "suspects.npz"
    with pytest.raises(FloatingPointError, match=r"became NaN or infinite by the end of epoch 1"):
        train(
            make("natural"), batches_from, STEPS, phases(1), callbacks=[Ruin()],
            bad_batches_path=str(path), verbose=0,
        )  # fmt: skip
    with np.load(path) as kept:
        assert (int(kept["epoch"]), int(kept["step"])) == (0, STEPS - 1)
        np.testing.assert_array_equal(kept["labels"], next(iter(batches_from(0, STEPS - 1)))[1])


def test_bytes_train_what_floats_do(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (150, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=rng.integers(0, 10, 150))
    found = []
    for as_bytes in (False, True):

        def batches(epoch, step, as_bytes=as_bytes):
            splits = hydra_tf.data.load(
                f"npz:path={tmp_path / 'some.npz'}", batch_size=32, first_epoch=epoch,
                first_step=step, as_bytes=as_bytes,
            )  # fmt: skip
            return splits.train.repeat()

        model = make()
        train(model, batches, 3, phases(1, 1), verbose=0)
        found.append(weights_of(model))
    assert_same(*found)
