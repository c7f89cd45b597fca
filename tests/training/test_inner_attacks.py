"""Training with a registered attack: ``fit``, the loop, replicas, resuming and files."""

import json

import keras
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf import attacks, objectives
from hydra_tf.training import Checkpoints, LoopOptions, StepOptions, train
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

TRADES = "trades:epsilon=0.1,steps=2,step_size=0.05,start=uniform"
CLEVERHANS = f"{TRADES},attack=cleverhans_pgd"
APGD = "pgd:epsilon=0.1,attack=(apgd:steps=2,restarts=2)"


def run(objective, batches_from, folder=None, strategy=None, steps=None, options=None, plan=(1, 1)):
    """Return the model after training, which stops with an error after `steps` steps."""
    model = make_model(objective, strategy)
    train(
        model, batches_from, STEPS, phases(*plan), callbacks=[FaultAfter(steps)] if steps else [],
        checkpoints=Checkpoints(folder) if folder else None,
        options=options or LoopOptions(checkpoint_seconds=0.0), verbose=0,
    )  # fmt: skip
    return model


every_objective = pytest.mark.parametrize(
    "objective",
    [
        pytest.param(CLEVERHANS, id="cleverhans"),
        pytest.param(APGD, id="apgd", marks=pytest.mark.slow),
    ],
)


@every_objective
def test_an_interrupted_run_has_the_bits_of_a_whole_one(objective, batches_from, tmp_path):
    tf.random.set_seed(1)
    whole = run(objective, batches_from)
    with pytest.raises(StopError):
        run(objective, batches_from, tmp_path, steps=STEPS + 2)  # within the prune phase
    tf.random.set_seed(2)
    resumed = run(objective, batches_from, tmp_path)
    assert_same(weights_of(resumed), weights_of(whole))


@pytest.mark.slow
def test_fit_and_the_loop_have_the_same_bits(batches_from):
    fitted = make_model(CLEVERHANS)
    fitted.fit(
        batches_from(0, 0), epochs=2, steps_per_epoch=STEPS, callbacks=[phases(1, 1)], verbose=0
    )
    assert_same(weights_of(run(CLEVERHANS, batches_from)), weights_of(fitted))


@pytest.mark.slow(seconds=10)
@every_objective
def test_replicas_equal_one_device(objective, batches_from, two_replicas):
    alone, shared = (run(objective, batches_from, strategy=one) for one in (None, two_replicas))
    # The order of sums differs: float32 rounding over 10 steps with momentum.
    assert_same(weights_of(shared), weights_of(alone), atol=2e-4)


@pytest.mark.slow
@every_objective
def test_microbatches_equal_whole_batches(objective, batches_from):
    options = LoopOptions(step=StepOptions(microbatches=3))
    whole, divided = (run(objective, batches_from, options=one) for one in (None, options))
    assert_same(weights_of(divided), weights_of(whole), atol=2e-4)


@pytest.mark.slow
def test_xla_compiles_the_attacks(batches_from):
    # XLA draws other random numbers, so there is no random start.
    for attack in ("cleverhans_pgd", "apgd"):
        objective = f"pgd:epsilon=0.1,steps=2,start=zero,attack={attack}"
        alone = run(objective, batches_from, plan=(1,))
        options = LoopOptions(step=StepOptions(jit_compile=True))
        compiled = run(objective, batches_from, options=options, plan=(1,))
        assert_same(weights_of(compiled), weights_of(alone), atol=2e-4)


def test_checkpoints_know_the_attack(batches_from, tmp_path):
    with pytest.raises(StopError):
        run(TRADES, batches_from, tmp_path, steps=2)
    with pytest.raises(ValueError, match="belongs to another run, which differs in: objective"):
        run(CLEVERHANS, batches_from, tmp_path)


def test_a_checkpoint_of_an_older_version_is_resumed(batches_from, tmp_path):
    whole = run(TRADES, batches_from, plan=(1,))
    with pytest.raises(StopError):
        run(TRADES, batches_from, tmp_path, steps=2, plan=(1,))
    store = Checkpoints(tmp_path)
    position, arrays = store.newest()
    stored = json.loads(str(arrays["run"]))
    for key in ("attack", "label_smoothing"):
        del stored["objective"][key]
    # Written again under another name, so that it is the newest.
    store.save(RunPosition(0, position.step), {**arrays, "run": json.dumps(stored)})
    resumed = run(TRADES, batches_from, tmp_path, plan=(1,))
    assert_same(weights_of(resumed), weights_of(whole))
    stored["objective"]["gamma"] = 1.0  # of a version that this one does not know
    position, arrays = store.newest()
    store.save(position, {**arrays, "run": json.dumps(stored)})
    with pytest.raises(ValueError, match="belongs to another run, which differs in: objective"):
        run(TRADES, batches_from, tmp_path, plan=(1,))


def test_a_saved_model_keeps_the_attack(tmp_path):
    model = make_model(f"{TRADES},attack=(apgd:steps=3),ramp=0.5".replace(",step_size=0.05", ""))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.objective == model.objective
    assert loaded.objective.attack == attacks.build("apgd:epsilon=0.1,steps=3")
    config = make_model(TRADES).get_config()
    del config["objective"]["attack"]  # as an older version wrote it
    assert hydra_tf.RobustModel.from_config(config).objective == objectives.build(TRADES)


@pytest.mark.parametrize("name", ["autoattack", "fab", "fmn", "square"])
def test_attacks_without_a_loss_are_refused_before_training(name, two_replicas):
    for strategy in (None, two_replicas):
        with pytest.raises(ValueError, match=f'The attack "{name}" does not climb a loss, so'):
            make_model(f"trades:attack={name}", strategy)
