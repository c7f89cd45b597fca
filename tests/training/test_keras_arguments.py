"""Every argument of Keras is used, or refused before training."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.training import LoopOptions, train
from tests.training.loops import make_model, phases, weights_of

RNG = np.random.default_rng(1)
X, Y = RNG.random((48, 8, 8, 1)).astype("float32"), RNG.integers(0, 10, 48)
ONES = np.ones(48)


def batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(16)


def compiled(**arguments):
    model = hydra_tf.RobustModel(make_model().net, "natural", validation_attack=None)
    model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"], **arguments)
    return model


VALID = {"validation_data": (X, Y)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weight": {0: 2.0}}, "fit does not support class_weight, because .* leave it out"),
        ({"sample_weight": ONES}, "fit does not support sample_weight"),
        ({"x": batches(X, Y, ONES)}, "must yield pairs .* without sample weights"),
        ({"validation_data": (X, Y, ONES)}, "does not support validation_sample_weight"),
        ({"validation_data": batches(X, Y, ONES)}, "without sample weights"),
        (
            {"x": batches(X, Y), "batch_size": 8},
            r"fit\(batch_size=8\) would be ignored, because",
        ),
        ({"x": iter([(X, Y)]), "batch_size": 8}, r"fit\(batch_size=8\) would be ignored"),
        ({"x": batches(X, Y), "shuffle": True}, r"fit\(shuffle=True\) would be ignored"),
        ({**VALID, "validation_split": 0.5}, "validation_split=0.5.* validation_data take its pl"),
        ({"validation_steps": 1}, r"validation_steps=1\) .* there are no validation data"),
        ({"validation_batch_size": 8}, "there are no validation data"),
        ({"validation_freq": 2}, "there are no validation data"),
        (
            {"validation_data": batches(X, Y), "validation_batch_size": 8},
            "the validation data come in batches already",
        ),
        (
            {"x": batches(X, Y), "batch_size": 8, **VALID, "validation_batch_size": 8},
            r"fit\(batch_size=8\) would be ignored",
        ),
    ],
)
def test_arguments_of_fit_that_would_be_ignored_are_refused(arguments, message):
    model = compiled()
    before = weights_of(model)
    arguments = {"x": X, "y": Y, **arguments}
    if arguments["x"] is not X:
        del arguments["y"]
    with pytest.raises(ValueError, match=message):
        model.fit(verbose=0, **arguments)
    for old, new in zip(before.values(), weights_of(model).values(), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("evaluate", {"sample_weight": ONES}, "evaluate does not support sample_weight"),
        ("evaluate", {"x": batches(X, Y), "batch_size": 8}, r"evaluate\(batch_size=8\) would be i"),
        ("train_on_batch", {"sample_weight": ONES}, "train_on_batch does not support sample_weig"),
        ("train_on_batch", {"class_weight": {0: 2.0}}, "train_on_batch does not support class_we"),
        ("test_on_batch", {"sample_weight": ONES}, "test_on_batch does not support sample_weight"),
        ("compile", {"jit_compile": True}, r"jit_compile=True, .*StepOptions\(jit_compile=True"),
        ("compile", {"loss": "mse"}, "does not take loss"),
        ("compile", {"loss_weights": [1.0]}, "does not take loss_weights"),
    ],
)
def test_arguments_of_other_methods_are_refused(method, arguments, message):
    data = {} if method == "compile" else {"x": X, "y": Y}
    if "x" in arguments:
        del data["y"]
    with pytest.raises(ValueError, match=message):
        getattr(compiled(), method)(**{**data, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": None, "warmup": 0.1}, "warmup=0.1 would be ignored, because schedule=None"),
        (
            {"schedule": keras.optimizers.schedules.CosineDecay(0.1, 4), "warmup": 0.0},
            "warmup=0.0 would be ignored, because a Keras schedule has no warm-up",
        ),
        ({"restore_best_weights": False, "monitor": "val_loss"}, "monitor .* would be ignored"),
        ({"restore_best_weights": False, "best_dir": "best"}, "best_dir would be ignored"),
    ],
)
def test_arguments_of_the_pipeline_that_would_be_ignored_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        phases(1, **arguments)


@pytest.mark.parametrize("chosen", [{"warmup": 0.05}, {"schedule": "constant"}])
def test_a_second_schedule_is_refused(chosen):
    model = hydra_tf.RobustModel(make_model().net, "natural")
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 4)))
    name = next(iter(chosen))
    with pytest.raises(ValueError, match=rf"HydraCallback\({name}=.* schedule of its own"):
        model.fit(X, Y, callbacks=[phases(1, **chosen)], verbose=0)


@pytest.mark.parametrize("setting", [{"steps_per_execution": 3}, {"run_eagerly": True}])
def test_the_training_loop_refuses_what_it_would_ignore(setting, batches_from):
    model = compiled(**setting)
    with pytest.raises(ValueError, match=f"train would ignore compile.{next(iter(setting))}="):
        train(model, batches_from, 2, phases(1), options=LoopOptions())


@pytest.mark.parametrize("setting", [{"run_eagerly": True}, {"steps_per_execution": 3}], ids=str)
def test_eager_and_longer_executions_train_the_same_weights(setting):
    models = compiled(), compiled(**setting)
    for model in models:
        model.set_phase("prune")
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    for one, other in zip(*(weights_of(model).values() for model in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_bad_batches_are_refused_without_a_graph():
    later = batches(np.concatenate([X, X * 255]), np.concatenate([Y, Y]))
    with pytest.raises(ValueError, match=r"^A batch has images with values outside"):
        compiled(run_eagerly=True).fit(later, verbose=0)


def test_validation_arguments_are_used():
    history = (
        compiled()
        .fit(*(X, Y), epochs=4, validation_split=0.25, validation_freq=2, verbose=0)
        .history
    )
    assert len(history["val_accuracy"]) == 2
    model = compiled()
    arguments = {"validation_steps": 1, "validation_batch_size": 4, "verbose": 0}
    first = model.fit(X, Y, validation_data=(X, Y), **arguments).history["val_accuracy"]
    expected = np.mean(np.argmax(model.predict(X[:4], verbose=0), 1) == Y[:4])
    assert first == pytest.approx([expected])
    # The batch size of arrays is that of the validation arrays too.
    sizes = []
    watch = keras.callbacks.LambdaCallback()
    watch.on_test_batch_end = lambda batch, logs: sizes.append(batch)
    model.fit(batches(X, Y), batch_size=12, validation_data=(X, Y), callbacks=[watch], verbose=0)
    assert sizes == [0, 1, 2, 3]


def test_weighted_metrics_are_those_of_equal_weights():
    model = hydra_tf.RobustModel(make_model().net, "natural", validation_attack=None)
    model.compile("sgd", metrics=["accuracy"], weighted_metrics=["accuracy"])
    metrics = model.evaluate(X, Y, return_dict=True, verbose=0)
    assert metrics["weighted_accuracy"] == metrics["accuracy"]


def test_a_model_that_was_compiled_for_xla_still_loads(tmp_path):
    model = compiled()
    model._compile_config.config["jit_compile"] = True
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert loaded.compiled and loaded.jit_compile is False
    assert re.search("RobustModel", type(loaded).__name__)
