"""State between two calls of ``fit``: densities, optimizer state and learning rate."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.sparsity.model import masked_layers
from tests.training.loops import make_model, phases, weights_of

RNG = np.random.default_rng(3)
X, Y = RNG.random((64, 8, 8, 1)).astype("float32"), RNG.integers(0, 10, 64)


def kept_weights(model):
    return [row["kept"] for row in hydra_tf.sparsity.report(model)["layers"]]


@pytest.mark.parametrize("phase_first", [False, True], ids=["weights-phase", "phase-weights"])
def test_loaded_weights_set_the_density(phase_first, tmp_path):
    pruned, fresh = make_model("natural"), make_model("natural")
    hydra_tf.set_density(pruned, 0.25)
    pruned.save_weights(tmp_path / "a.weights.h5")
    if phase_first:
        fresh.set_phase("prune")
    fresh.load_weights(tmp_path / "a.weights.h5")
    if not phase_first:
        fresh.set_phase("prune")
    fresh.fit(X, Y, verbose=0)
    assert kept_weights(fresh) == kept_weights(pruned)
    assert kept_weights(fresh) != kept_weights(make_model("natural"))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss-scaled"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"use_ema": True}, r"use_ema=True.*LoopOptions\(average="),
        ({"gradient_accumulation_steps": 4}, r"steps=4 counts.*StepOptions\(microbatches=4\)"),
    ],
)
def test_optimizers_that_break_the_phases_are_refused(setting, message, scaled):
    optimizer = keras.optimizers.SGD(0.1, **setting)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = hydra_tf.RobustModel(make_model().net)
    model.compile(optimizer)
    before = weights_of(model)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, verbose=0)
    for old, new in zip(before.values(), weights_of(model).values(), strict=True):
        assert np.array_equal(old, new)


def test_training_continues_after_nan_at_a_lower_rate():
    model = make_model("natural")
    model.optimizer.learning_rate = 1e30
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        model.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == 0
    assert all(not np.any(np.asarray(momentum)) for momentum in model.optimizer.momentums)
    model.optimizer.learning_rate = 0.01
    loss = model.fit(X, Y, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(loss).all()


def test_learning_rate_is_restored_after_nan():
    model = make_model("natural")
    pipeline = phases(1, 1, 1, learning_rate={"finetune": 1e30})
    with pytest.raises(FloatingPointError, match="phase finetune"):
        model.fit(X, Y, epochs=3, batch_size=8, verbose=0, callbacks=[pipeline])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
    again = phases(1, 1, 1)
    options = {"initial_epoch": 2, "epochs": 3, "batch_size": 8, "verbose": 0}
    assert np.isfinite(model.fit(X, Y, callbacks=[again], **options).history["loss"]).all()


def test_layers_may_be_frozen_between_two_fits():
    model = make_model("natural")
    model.fit(X, Y, verbose=0)
    model.net.layers[0].trainable = False
    frozen = np.array(model.net.layers[0].kernel)
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[phases(1, 1, 1)])
    assert np.array_equal(frozen, model.net.layers[0].kernel)
    for layer in masked_layers(model):
        assert int(np.sum(layer.mask)) == round(0.3 * np.size(layer.kernel))


@pytest.mark.parametrize("first", ["rows", "integers"])
def test_metrics_accept_either_form_of_labels(first):
    model = hydra_tf.RobustModel(make_model().net, "natural", validation_attack=None)
    specific = "categorical_accuracy" if first == "rows" else "sparse_categorical_accuracy"
    model.compile("sgd", metrics=["accuracy", specific])
    expected = float(np.mean(np.argmax(model.predict(X, verbose=0), 1) == Y))
    forms = {"rows": np.eye(10)[Y], "integers": Y, "column": Y[:, None]}
    for form in (first, *forms):
        metrics = model.evaluate(X, forms[form], verbose=0, return_dict=True)
        assert float(metrics["accuracy"]) == pytest.approx(expected)
        assert float(metrics[specific]) == pytest.approx(expected)
    history = model.fit(X, forms["rows"], validation_data=(X, Y), verbose=0).history
    expected = float(np.mean(np.argmax(model.predict(X, verbose=0), 1) == Y))
    assert history["val_accuracy"] == pytest.approx([expected])


def test_schedule_may_be_a_callable():
    def halves(step, steps, peak, warmup):
        return peak / 2 ** (step + 1)

    rates = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    model = make_model("natural")
    pipeline = phases(1, schedule=halves)
    model.fit(X, Y, batch_size=32, verbose=0, callbacks=[pipeline, watch])
    assert rates == pytest.approx([0.05, 0.025])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_export_writes_the_network_of_plain_layers(tmp_path):
    model = make_model("natural")
    hydra_tf.set_density(model, 0.3)
    model.export(tmp_path / "saved", verbose=False)
    artifact = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(artifact.serve(X), model(X), rtol=1e-5, atol=1e-6)


def test_mixed_precision_survives_saving(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model("natural")
    finally:
        keras.config.set_dtype_policy(before)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    assert loaded.dtype_policy.name == "mixed_float16"
    for one, two in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        assert np.array_equal(one, two), one.path
    losses = [one.fit(X, Y, verbose=0, shuffle=False).history for one in (model, loaded)]
    assert losses[0] == losses[1]
