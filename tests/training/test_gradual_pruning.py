"""Gradual pruning: the density falls during pretraining, while weights are trained."""

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.interop import tfmot
from hydra_tf.sparsity import METHODS, masked_layers, topk_mask
from hydra_tf.training import Checkpoints, LoopOptions, train
from tests.training.loops import (
    STEPS,
    FaultAfter,
    StopError,
    assert_same,
    make_model,
    phases,
    weights_of,
)

CUBIC = "cubic:end=0.8,updates=4"
TFMOT = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.7, 0, 8, frequency=2)


def gradual(*epochs, schedule=CUBIC, **options):
    return phases(*epochs, density_schedule=schedule, density_schedule_phase="pretrain", **options)


class Recorder(keras.callbacks.Callback):
    """Records kernels, scores and masks after each step."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        layers = masked_layers(self.model)
        self.rows.append([[np.array(v) for v in (m.kernel, m.scores, m.mask)] for m in layers])

    def kept(self):
        return [sum(int(mask.sum()) for *_, mask in row) for row in self.rows]


def counts(densities):
    return [round(density * 772) for density in densities]


@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        ("hydra", CUBIC),
        pytest.param("hydra", TFMOT, marks=pytest.mark.slow(seconds=5)),
        pytest.param("lwm", CUBIC, marks=pytest.mark.slow(seconds=5)),
    ],
)
def test_fit_and_loop_follow_the_schedule(method, schedule, batches_from):
    def plan():
        return gradual(2, 0, 1, method=method, schedule=schedule)

    fitted, looped, recorder, fit_plan = (
        make_model("natural"), make_model("natural"), Recorder(), plan()
    )  # fmt: skip
    # More batches than one pass, in the order in which the loop reads them.
    fitted.fit(
        batches_from(0, 0),
        epochs=3,
        steps_per_epoch=STEPS,
        verbose=0,
        callbacks=[fit_plan, recorder],
    )
    train(looped, batches_from, STEPS, plan(), verbose=0)
    assert_same(weights_of(looped), weights_of(fitted))
    densities = fit_plan.ramp.densities
    assert densities[0] > 0.9
    assert densities[-1] == 0.3
    assert len(set(densities)) > 3
    assert recorder.kept() == counts([*densities, *[0.3] * STEPS])
    # Scores are trained together with the weights, or else only follow them.
    for before, after in zip(recorder.rows[0], recorder.rows[1], strict=True):
        assert not np.array_equal(before[0], after[0])
        assert np.array_equal(before[1], after[1]) == (method == "lwm")


def test_magnitudes_decide_again_at_each_change(batches_from):
    # Without momentum and weight decay, pruned weights keep their values and may come back.
    model, recorder, plan = make_model("natural"), Recorder(), gradual(2, method="lwm")
    model.compile(keras.optimizers.SGD(0.5))
    model.fit(
        batches_from(0, 0), epochs=2, steps_per_epoch=STEPS, verbose=0, callbacks=[plan, recorder]
    )
    changes = 0
    for before, after in zip(recorder.rows, recorder.rows[1:], strict=False):
        changed = sum(m.sum() for *_, m in before) != sum(m.sum() for *_, m in after)
        changes += changed
        for (kernel, _, old_mask), (new_kernel, _, mask) in zip(before, after, strict=True):
            expected = topk_mask(kernel, int(mask.sum())).numpy() if changed else old_mask
            assert np.array_equal(mask, expected)
            assert np.array_equal(new_kernel[~mask.astype(bool)], kernel[~mask.astype(bool)])
    assert changes == 4


@pytest.mark.slow(seconds=10)
def test_the_prune_phase_goes_on_with_the_trained_scores(batches_from):
    plan, recorder = gradual(1, 1, 0, score_perturbation=0.1), Recorder()
    entered, enter = [], plan._enter

    def record(name):
        enter(name)
        entered.append(weights_of(plan.model))

    plan._enter = record
    model = make_model("natural")
    train(model, batches_from, STEPS, plan, callbacks=[recorder], verbose=0)
    kernel, scores, mask = recorder.rows[STEPS - 1][0]
    values = list(entered[1].values())
    assert any(np.array_equal(value, scores) for value in values)
    assert any(np.array_equal(value, mask) for value in values)
    # Kernels are frozen again.
    assert np.array_equal(recorder.rows[-1][0][0], kernel)
    assert not np.array_equal(recorder.rows[-1][0][1], scores)


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize("method", METHODS.names())
def test_resumed_runs_have_the_same_bits(method, tmp_path, batches_from, validation):
    def run(folder, *callbacks):
        model = make_model("natural")
        options = LoopOptions(checkpoint_seconds=0.0, average=0.9)
        train(
            model, batches_from, STEPS, gradual(2, 1, 1, method=method), callbacks=callbacks,
            checkpoints=Checkpoints(folder), options=options, verbose=0,
            validation_data=validation,
        )  # fmt: skip
        return weights_of(model)

    whole = run(str(tmp_path / "whole"))
    for steps in (3, 4, 6):  # within the first epoch, the second, and after pretraining
        with pytest.raises(StopError):
            run(str(tmp_path / "stopped"), FaultAfter(steps))
    assert_same(run(str(tmp_path / "stopped")), whole)


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize("method", ["hydra", "lwm"])
def test_a_resumed_fit_has_the_same_bits(method, tmp_path, batches_from):
    data = batches_from(0, 0).take(STEPS).repeat()

    def run(*callbacks):
        model = make_model("natural")
        model.fit(
            data, epochs=3, steps_per_epoch=STEPS, verbose=0,
            callbacks=[gradual(3, schedule="cubic:end=0.9,updates=5", method=method), *callbacks],
        )  # fmt: skip
        return weights_of(model)

    whole = run()
    backup = keras.callbacks.BackupAndRestore(str(tmp_path), delete_checkpoint=False)
    with pytest.raises(StopError):
        run(backup, FaultAfter(STEPS + 3))
    assert_same(run(backup), whole)


@pytest.mark.slow(seconds=10)
def test_executions_of_several_steps_end_at_the_density(batches_from):
    model = make_model("natural")
    options = LoopOptions(steps_per_execution=3)
    train(model, batches_from, STEPS, gradual(2, method="lwm"), options=options, verbose=0)
    assert hydra_tf.sparsity.report(model)["total"]["kept"] == counts([0.3])[0]


@pytest.mark.slow(seconds=10)
def test_only_epochs_with_the_last_density_can_be_the_best(batches_from):
    plan, kept = gradual(4, schedule="linear:end=0.5", monitor="val_accuracy"), []
    original = plan.on_epoch_end

    def on_epoch_end(epoch, logs=None):
        kept.append(weights_of(plan.model))
        original(epoch, {**(logs or {}), "val_accuracy": 1.0 - epoch / 10})

    plan.on_epoch_end = on_epoch_end
    model = make_model("natural")
    data = batches_from(0, 0).take(STEPS).repeat()
    model.fit(data, epochs=4, steps_per_epoch=STEPS, verbose=0, callbacks=[plan])
    assert_same(weights_of(model), kept[2])  # the density is reached with step 10


@pytest.mark.slow(seconds=10)
def test_two_replicas_equal_one_device(batches_from, two_replicas):
    def run(strategy):
        model = make_model("natural", strategy)
        train(model, batches_from, STEPS, gradual(1, 1, 1, allocation="global"), verbose=0)
        return weights_of(model)

    assert_same(run(two_replicas), run(None), atol=2e-4)


@pytest.mark.parametrize(
    ("epochs", "options", "sentence"),
    [
        ((1, 1, 1), {"density_schedule_phase": "pretrian"}, 'did you mean "pretrain"'),
        ((1, 1, 1), {"density_schedule": None}, 'pass a density_schedule such as "cubic"'),
        ((1, 1, 1), {"density_schedule": "one_shot"}, 'pass a density_schedule such as "cubic"'),
        ((0, 1, 1), {}, "in the pretrain phase, but the phases are prune, finetune; set pretrain_"),
    ],
)
def test_gradual_pruning_without_its_phase_is_refused(epochs, options, sentence):
    arguments = {"density_schedule": CUBIC, "density_schedule_phase": "pretrain", **options}
    with pytest.raises(ValueError, match=sentence):
        phases(*epochs, **arguments)


@pytest.mark.slow(seconds=10)
def test_another_phase_is_another_run(tmp_path, batches_from):
    kept = {
        "checkpoints": Checkpoints(str(tmp_path)), "options": LoopOptions(checkpoint_seconds=0.0)
    }  # fmt: skip
    with pytest.raises(StopError):
        train(
            make_model("natural"), batches_from, STEPS, gradual(1, 1),
            callbacks=[FaultAfter(2)], verbose=0, **kept,
        )  # fmt: skip
    plan = phases(1, 1, density_schedule=CUBIC)
    with pytest.raises(ValueError, match="differs in: density schedule phase"):
        train(make_model("natural"), batches_from, STEPS, plan, verbose=0, **kept)
