"""The density of the prune phase follows a schedule, under fit and the training loop."""

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.interop import tfmot
from hydra_tf.sparsity import masked_layers
from hydra_tf.sparsity.allocation import kept_per_layer
from hydra_tf.sparsity.density_schedules import Polynomial
from hydra_tf.training import Checkpoints, LoopOptions, train
from hydra_tf.training.callbacks.density_ramp import DensityRamp
from tests.training.loops import (
    STEPS,
    FaultAfter,
    StopError,
    assert_same,
    make_model,
    phases,
    weights_of,
)

CUBIC = "cubic:end=0.8,updates=10"
SLOW = "cubic:end=0.8,updates=2"  # changes at the steps 0, 4 and 8


def decay(begin=0, end=8, frequency=1, last=0.7):
    return tfmot.sparsity.keras.PolynomialDecay(0.0, last, begin, end, frequency=frequency)


class Kept(keras.callbacks.Callback):
    """Records the number of weights that are kept after each step."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def on_train_batch_end(self, batch, logs=None):
        masks = [np.asarray(layer.mask) for layer in masked_layers(self.model)]
        self.counts.append([int(mask.sum()) for mask in masks])


def expected(densities):
    """Return the number of kept weights of each layer at each density."""
    scores = {name: np.zeros(size) for name, size in (("a", 36), ("b", 576), ("c", 160))}
    return [list(kept_per_layer("uniform", scores, density).values()) for density in densities]


def test_polynomial_by_hand():
    # From step 2 to step 10 the density falls from 1 to 0.2, every second step.
    schedule = Polynomial(begin=0.1, end=0.5, updates=4, power=2.0)
    values = [schedule(step, 20, 0.2) for step in range(12)]
    falling = [1.0, None, 0.65, None, 0.4, None, 0.25, None, 0.2, 0.2]
    assert values[:2] == [None, None]
    assert [v if v is None else round(v, 12) for v in values[2:]] == falling


def test_the_density_changes_no_more_often_than_asked():
    for steps in (100, 150, 200, 401):
        values = [Polynomial(end=1.0, updates=50)(step, steps, 0.1) for step in range(steps)]
        assert 25 < len([value for value in values[1:] if value is not None]) <= 50


def test_schedules_of_tfmot_are_read_step_by_step():
    schedule = decay(begin=2, end=17, frequency=3, last=0.9)
    ramp = DensityRamp(schedule, 0.1)
    ramp.prepare(20)
    density, densities = 1.0, []
    for step in range(1, 21):  # TFMOT counts from 1
        changes, sparsity = schedule(step)
        density = 1 - float(sparsity) if changes else density
        densities.append(density)
    np.testing.assert_allclose(ramp.densities, densities, rtol=0, atol=1e-6)
    assert ramp.densities[-1] == 0.1


def test_one_density_holds_for_the_steps_of_one_execution():
    ramp = DensityRamp("linear:end=1,updates=100", 0.25)
    ramp.prepare(9, steps_per_execution=4)
    # The densities of steps 3, 7 and 8.
    assert [round(ramp.at(step), 3) for step in (0, 4, 8)] == [0.719, 0.344, 0.25]


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(CUBIC, id="cubic"),
        pytest.param(decay(), id="tfmot", marks=pytest.mark.slow(seconds=20)),
    ],
)
def test_fit_and_loop_follow_the_schedule(schedule, batches_from, validation):
    plan = phases(0, 2, 1, density_schedule=schedule)
    kept, model = Kept(), make_model("natural")
    data = batches_from(0, 0).take(STEPS).repeat(3)
    model.fit(data, epochs=3, steps_per_epoch=STEPS, verbose=0, callbacks=[plan, kept])
    counts = expected(plan.ramp.densities)
    assert kept.counts[: 2 * STEPS] == counts
    assert len({tuple(row) for row in counts}) > 4
    assert kept.counts[2 * STEPS :] == [expected([0.3])[0]] * STEPS

    kept, other = Kept(), make_model("natural")

    def repeated(epoch, step):
        return batches_from(0, 0).take(STEPS).repeat(3).skip(STEPS * epoch + step)

    plan = phases(0, 2, 1, density_schedule=schedule)
    train(other, repeated, STEPS, plan, callbacks=[kept], verbose=0)
    assert kept.counts[: 2 * STEPS] == counts
    assert_same(weights_of(other), weights_of(model))


def test_resumed_ramps_have_the_same_bits(tmp_path, batches_from, validation):
    densities = []

    def allocation(scores, density):
        densities.append(density)
        return dict.fromkeys(scores, density)

    def run(folder, *callbacks):
        model = make_model("natural")
        densities.clear()
        train(
            model, batches_from, STEPS,
            phases(1, 2, 1, density_schedule=SLOW, allocation=allocation),
            validation_data=validation, callbacks=callbacks,
            checkpoints=Checkpoints(folder), options=LoopOptions(checkpoint_seconds=0.0),
            verbose=0,
        )  # fmt: skip
        return weights_of(model)

    whole = run(str(tmp_path / "whole"))
    assert densities == [1.0, pytest.approx(0.3 + 0.7 / 8), 0.3]
    for steps in (2, 5, 6):  # the last start resumes in the prune phase, after step 5
        with pytest.raises(StopError):
            run(str(tmp_path / "stopped"), FaultAfter(steps))
    assert_same(run(str(tmp_path / "stopped")), whole)
    # An allocation may depend on the scores, so that only changes of the density call it.
    assert densities == [0.3]


def test_a_resumed_fit_allocates_again_only_when_the_density_changes(tmp_path, batches_from):
    data = batches_from(0, 0).take(STEPS).repeat()
    densities = []

    def allocation(scores, density):
        densities.append(density)
        return dict.fromkeys(scores, density)

    def run(epochs, stop=None):
        model, plan = (
            make_model("natural"),
            phases(0, 4, 0, density_schedule="cubic:end=0.4,updates=2", allocation=allocation),
        )
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)
        stops = [FaultAfter(stop)] if stop else []
        densities.clear()
        model.fit(
            data, epochs=epochs, steps_per_epoch=STEPS, verbose=0, callbacks=[plan, backup, *stops]
        )

    with pytest.raises(StopError):
        run(4, stop=2 * STEPS + 2)  # the second epoch is complete; the density has its last value
    assert densities == [1.0, pytest.approx(0.3 + 0.7 / 8), 0.3]
    run(4)
    assert densities == []


@pytest.mark.slow(seconds=10)
def test_executions_of_several_steps_end_at_the_density(batches_from):
    model, plan = make_model("natural"), phases(0, 2, 0, density_schedule="linear:end=1")
    train(model, batches_from, STEPS, plan, options=LoopOptions(steps_per_execution=3), verbose=0)
    assert hydra_tf.sparsity.report(model)["total"]["kept"] == sum(expected([0.3])[0])


def test_only_epochs_with_the_last_density_can_be_the_best(batches_from):
    plan = phases(0, 4, 0, density_schedule="linear:end=0.5", monitor="val_accuracy")
    original, scores = plan.on_epoch_end, []

    def on_epoch_end(epoch, logs=None):
        scores.append(weights_of(plan.model))
        original(epoch, {**(logs or {}), "val_accuracy": 1.0 - epoch / 10})

    plan.on_epoch_end = on_epoch_end
    model = make_model("natural")
    data = batches_from(0, 0).take(STEPS).repeat()
    model.fit(data, epochs=4, steps_per_epoch=STEPS, verbose=0, callbacks=[plan])
    # The density is reached with step 10, the first of the third epoch.
    assert_same(weights_of(model), scores[2])


def test_patience_begins_when_the_density_is_reached(batches_from, validation):
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=100.0)
    plan = phases(0, 8, 0, density_schedule="linear:end=0.5", restore_best_weights=False)
    model, epochs = make_model("natural"), []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    train(
        model, batches_from, STEPS, plan, validation_data=validation,
        callbacks=[count, stop], verbose=0,
    )  # fmt: skip
    # Step 20, the first of epoch 4, has the last density; epoch 4 is the first that counts.
    assert epochs == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("schedule", "error", "sentence"),
    [
        (decay(end=100), ValueError, r"ends at a density of .* after the 10 steps of the prune"),
        (decay(last=0.5), ValueError, "ends at a density of 0.5 .* but density=0.3; make both"),
        (lambda step: (True, 1.5), ValueError, r"leaves \(0, 1\]: its densities are from -0.5"),
        (lambda: 0.3, TypeError, "or a PruningSchedule of TFMOT, which maps a step to"),
    ],
)
def test_schedules_that_do_not_fit_the_phase_are_refused(schedule, error, sentence, batches_from):
    plan = phases(1, 2, 1, density_schedule=schedule)
    with pytest.raises(error, match=sentence):
        train(make_model("natural"), batches_from, STEPS, plan, verbose=0)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("cubik", 'Unknown density schedule "cubik"; did you mean "cubic"'),
        ("cubic:begin=0.6", "0 <= begin < end <= 1, not 0.6 and 0.5"),
        ("cubic:updates=0", "updates of a density schedule must be at least 1, not 0"),
        ("cubic:power=0", "power of a density schedule must be a finite number above 0, not 0"),
        ("cubic:initial_density=0", r"must lie in \(0, 1\], not 0"),
    ],
)
def test_invalid_schedules_are_refused(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        phases(1, 2, 1, density_schedule=spec)


@pytest.mark.parametrize("options", [{"method": "lwm"}, {}])
def test_a_schedule_needs_a_prune_phase(options):
    with pytest.raises(ValueError, match="in the prune phase, but the phases are pretrain"):
        phases(
            1, 0 if not options else 2, 0 if not options else 1, density_schedule=CUBIC, **options
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"density": 0.001},
            "A budget of 1 of 772 weights is too small: the layers keep at least 3",
        ),
        (
            {"density": 0.05, "allocation": "uniform_plus"},
            "density from .* contradicts density=0.05",
        ),
        # The phase begins with all weights, of which this layer would keep 30%.
        (
            {"density_schedule": CUBIC, "allocation": {"conv*": 0.3}},
            "contradicts density=1;",
        ),
    ],
)
def test_budgets_that_cannot_be_met_are_refused_before_pretraining(options, sentence, batches_from):
    first = Kept()
    with pytest.raises(ValueError, match=sentence):
        train(
            make_model("natural"), batches_from, STEPS, phases(1, 2, 1, **options),
            callbacks=[first], verbose=0,
        )  # fmt: skip
    assert not first.counts


def test_another_schedule_is_another_run(tmp_path, batches_from):
    def run(schedule, *callbacks):
        train(
            make_model("natural"), batches_from, STEPS, phases(1, 2, 1, density_schedule=schedule),
            callbacks=callbacks, checkpoints=Checkpoints(str(tmp_path)), verbose=0,
            options=LoopOptions(checkpoint_seconds=0.0),
        )  # fmt: skip

    with pytest.raises(StopError):
        run(CUBIC, FaultAfter(2))
    with pytest.raises(ValueError, match="another run, which differs in: density schedule"):
        run("linear")
