"""Bad input raises a one-line error before any work is done."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf


def net(last=None, classes=3):
    return keras.Sequential([keras.Input([4]), keras.layers.Dense(classes, activation=last)])


def model(objective="natural"):
    robust = hydra_tf.RobustModel(net(), objective)
    robust.compile("sgd")
    return robust


GOOD_X, GOOD_Y = np.full((6, 4), 0.5, "float32"), np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GOOD_X * 255, GOOD_Y, r"\[0, 1\], but they span \[127.5, 127.5\]; divide"),
        (GOOD_X - 1, GOOD_Y, r"\[0, 1\], but they span \[-0.5, -0.5\]"),
        (GOOD_X * np.nan, GOOD_Y, r"\[0, 1\]"),
        (
            np.zeros((6, 5)),
            GOOD_Y,
            r"takes images of shape \(4,\), but the data have images of shape \(5,\)",
        ),
        (GOOD_X, GOOD_Y + 1, "from 0 to 2"),
        (GOOD_X, GOOD_Y - 1, "from 0 to 2"),
        (GOOD_X, GOOD_Y + 0.5, "whole numbers"),
        (GOOD_X, np.full((6, 3), 1 / 3), "one-hot"),
        (GOOD_X, np.zeros((6, 5)), r"one-hot of shape \[batch, 3\]"),
    ],
)
def test_data_are_checked_before_training(x, y, message):
    robust = model()
    before = np.array(robust.net.layers[0].kernel)
    for data in ((x, y), (tf.data.Dataset.from_tensor_slices((x, y)).batch(6), None)):
        with pytest.raises(ValueError, match=message):
            robust.fit(*data, verbose=0)
        with pytest.raises(ValueError, match=message):
            robust.evaluate(*data, verbose=0)
        with pytest.raises(ValueError, match=message):
            robust.fit(GOOD_X, GOOD_Y, validation_data=data if data[1] is not None else data[0])
    assert np.array_equal(before, robust.net.layers[0].kernel)


def test_empty_and_unlabelled_data():
    with pytest.raises(ValueError, match="empty"):
        model().fit(tf.data.Dataset.from_tensor_slices((GOOD_X, GOOD_Y)).batch(2).take(0))
    with pytest.raises(ValueError, match="pairs of"):
        model().fit(tf.data.Dataset.from_tensor_slices(GOOD_X).batch(2))


@pytest.mark.parametrize("last", ["softmax", "sigmoid"])
def test_probabilities_are_refused(last):
    with pytest.raises(ValueError, match="need logits"):
        hydra_tf.RobustModel(net(last))
    with_layer = keras.Sequential([keras.Input([4]), keras.layers.Dense(3), keras.layers.Softmax()])
    with pytest.raises(ValueError, match="need logits"):
        hydra_tf.RobustModel(with_layer)
    images = keras.Input([4])
    with_operation = keras.Model(images, keras.ops.softmax(keras.layers.Dense(3)(images)))
    with pytest.raises(ValueError, match="need logits"):
        hydra_tf.RobustModel(with_operation)


def test_softmax_by_hand_is_refused_before_training():
    images = keras.Input([4])
    positive = keras.ops.exp(keras.layers.Dense(3)(images))
    normalised = keras.Model(images, positive / keras.ops.sum(positive, axis=1, keepdims=True))
    robust = hydra_tf.RobustModel(normalised)
    robust.compile("sgd")
    with pytest.raises(ValueError, match=r"sums to 1.*need logits"):
        robust.fit(GOOD_X, GOOD_Y, verbose=0)


def test_unknown_objective_and_parameter():
    with pytest.raises(ValueError, match='Unknown objective "trade"; did you mean "trades"'):
        hydra_tf.RobustModel(net(), "trade")
    with pytest.raises(ValueError, match='"betta"; did you mean "beta"'):
        hydra_tf.RobustModel(net(), "trades:betta=6")
    with pytest.raises(TypeError, match='"steps" of objective "trades" must be a whole number'):
        hydra_tf.RobustModel(net(), "trades:steps=many")
    with pytest.raises(ValueError, match="epsilon"):
        hydra_tf.RobustModel(net(), "trades:epsilon=-1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, r"\(0, 1\]"),
        ({"density": 1.5}, r"\(0, 1\]"),
        ({"density": float("nan")}, r"\(0, 1\]"),
        ({"method": "hydro"}, 'did you mean "hydra"'),
        ({"allocation": "unifrom"}, 'did you mean "uniform"'),
        ({"granularity": "elemnt"}, 'did you mean "element"'),
        ({"schedule": "cosin"}, 'did you mean "cosine"'),
        ({"pretrain_epochs": -1}, "at least 0"),
        ({"pretrain_epochs": 0}, "no epochs to run"),
        ({"pretrain_epochs": 0, "prune_epochs": 3, "method": "lwm"}, "no epochs to run"),
        ({"finetune_epochs": 1}, "prune_epochs, or use the method .lwm"),
        ({"learning_rate": -1.0}, "positive number"),
        ({"learning_rate": {"fine_tune": 0.5}}, 'did you mean "finetune"'),
        ({"warmup": 1.0}, "warmup"),
        ({"schedule": None, "learning_rate": 0.5}, "schedule=None leaves the rate unchanged"),
    ],
)
def test_callback_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        hydra_tf.HydraCallback(**{"density": 0.5, "pretrain_epochs": 1, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": None}, r"a number in \(0, 1\], not None"),
        ({"density": "0.1"}, r"a number in \(0, 1\], not '0.1'"),
        ({"density": lambda step: 0.1}, r"a number in \(0, 1\], not <function"),
        ({"pretrain_epochs": 1.5}, "pretrain_epochs must be a whole number, not 1.5"),
    ],
)
def test_callback_arguments_of_the_wrong_type(arguments, message):
    with pytest.raises(TypeError, match=message):
        hydra_tf.HydraCallback(**{"density": 0.5, "pretrain_epochs": 1, **arguments})


def test_conflicting_learning_rates_are_refused():
    scheduled = hydra_tf.RobustModel(net(), "natural")
    scheduled.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 4)))
    with pytest.raises(ValueError, match=r"be ignored, because the optimizer .* leave out one"):
        scheduled.fit(GOOD_X, GOOD_Y, callbacks=[hydra_tf.HydraCallback(0.5, 1, learning_rate=0.5)])
    for other in (
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.25),
        keras.callbacks.ReduceLROnPlateau(),
    ):
        callbacks = [hydra_tf.HydraCallback(0.5, 1), other]
        with pytest.raises(ValueError, match=f"{type(other).__name__} .*schedule=None"):
            model().fit(GOOD_X, GOOD_Y, callbacks=callbacks, verbose=0)
    robust = model()
    callbacks = [
        hydra_tf.HydraCallback(0.5, 1, schedule=None),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.25),
    ]
    robust.fit(GOOD_X, GOOD_Y, callbacks=callbacks, verbose=0)
    assert float(robust.optimizer.learning_rate) == 0.25


def test_coarse_learning_rates_warn_once(caplog):
    robust = hydra_tf.RobustModel(net(), "natural")
    robust.compile("sgd", steps_per_execution=2)
    with caplog.at_level("WARNING", logger="absl"):
        robust.fit(
            GOOD_X, GOOD_Y, epochs=2, verbose=0, callbacks=[hydra_tf.HydraCallback(0.5, 1, 1)]
        )
    (warning,) = [text for text in caplog.messages if text.startswith("hydra_tf: ")]
    assert "steps_per_execution=2 the learning rate" in warning


def test_misspelt_monitor_is_refused_or_warned_about(caplog):
    def fit(**options):
        pipeline = hydra_tf.HydraCallback(0.5, 2, monitor="val_acuracy")
        robust = hydra_tf.RobustModel(net(), "natural")
        robust.compile("sgd", metrics=["accuracy"])
        robust.fit(GOOD_X, GOOD_Y, epochs=2, verbose=0, callbacks=[pipeline], **options)

    with pytest.raises(ValueError, match='"val_acuracy"; did you mean "val_accuracy"'):
        fit(validation_data=(GOOD_X, GOOD_Y))
    with caplog.at_level("WARNING", logger="absl"):
        fit()
    assert len([text for text in caplog.messages if 'no metric "val_acuracy"' in text]) == 1


def test_nets_that_cannot_be_wrapped():
    images = keras.Input([4])
    heads = keras.Model(images, [keras.layers.Dense(3)(images), keras.layers.Dense(3)(images)])
    with pytest.raises(ValueError, match="has 2 outputs"):
        hydra_tf.RobustModel(heads)
    with pytest.raises(TypeError, match=r"already a RobustModel; pass its network, model\.net"):
        hydra_tf.RobustModel(model())
    for seed in ("a", 1.0):
        with pytest.raises(TypeError, match="seed must be a whole number"):
            hydra_tf.RobustModel(net(), seed=seed)
    single = hydra_tf.RobustModel(net(classes=1), "natural")
    single.compile("sgd")
    with pytest.raises(ValueError, match="at least 2 classes"):
        single.fit(GOOD_X, GOOD_Y, verbose=0)


def test_empty_arrays_and_single_batches_are_checked():
    robust = model()
    for call in (robust.fit, robust.evaluate, robust.train_on_batch):
        with pytest.raises(ValueError, match="The data are empty"):
            call(GOOD_X[:0], GOOD_Y[:0])
    for call in (robust.train_on_batch, robust.test_on_batch):
        with pytest.raises(ValueError, match="divide 8-bit images by 255"):
            call(255 * GOOD_X, GOOD_Y)
    assert robust.train_on_batch(GOOD_X, GOOD_Y) > 0


def test_net_created_outside_the_scope_is_refused(two_replicas):
    outside = net()
    with two_replicas.scope():
        robust = hydra_tf.RobustModel(hydra_tf.mask_model(outside), "natural")
        robust.compile("sgd")
    robust.fit(GOOD_X, GOOD_Y, verbose=0)  # the masked copy was created inside
    masked = hydra_tf.mask_model(outside)
    with two_replicas.scope():
        robust = hydra_tf.RobustModel(masked, "natural")
        robust.compile("sgd")
    with pytest.raises(ValueError, match=r"belong to the tf\.distribute strat"):
        robust.fit(GOOD_X, GOOD_Y, verbose=0)
    robust = model()
    with two_replicas.scope(), pytest.raises(ValueError, match="within one strategy"):
        robust.fit(GOOD_X, GOOD_Y, verbose=0)
    robust = hydra_tf.RobustModel(net(), "natural")
    with two_replicas.scope():
        robust.compile("sgd")
    with pytest.raises(ValueError, match=r"iteration.* within one strategy"):
        robust.fit(GOOD_X, GOOD_Y, verbose=0)


def test_epochs_must_match_the_phases():
    with pytest.raises(ValueError, match="pass epochs=3"):
        model().fit(GOOD_X, GOOD_Y, epochs=5, callbacks=[hydra_tf.HydraCallback(0.5, 1, 1, 1)])
    pair = [hydra_tf.HydraCallback(0.5, 1), hydra_tf.HydraCallback(0.5, 1)]
    with pytest.raises(ValueError, match="one HydraCallback"):
        model().fit(GOOD_X, GOOD_Y, callbacks=pair)


def test_dataset_of_unknown_length_is_refused():
    data = tf.data.Dataset.from_tensor_slices((GOOD_X, GOOD_Y)).batch(2).filter(lambda *_: True)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model().fit(data, epochs=1, callbacks=[hydra_tf.HydraCallback(0.5, 1)])


def test_the_callback_needs_a_robust_model():
    plain = net()
    plain.compile("sgd", "mse")
    with pytest.raises(TypeError, match="RobustModel"):
        plain.fit(GOOD_X, GOOD_X[:, :3], callbacks=[hydra_tf.HydraCallback(0.5, 1)], verbose=0)


def test_sample_and_class_weights_are_refused():
    with pytest.raises(ValueError, match="class_weight"):
        model().fit(GOOD_X, GOOD_Y, class_weight={0: 1.0})
    with pytest.raises(ValueError, match="sample_weight"):
        model().fit(GOOD_X, GOOD_Y, sample_weight=np.ones(6))


def test_a_callable_objective_trains_but_cannot_be_saved(tmp_path):
    natural = hydra_tf.objectives.build("natural")
    robust = hydra_tf.RobustModel(net(), lambda *args: natural(*args))
    robust.compile("sgd")
    robust.fit(GOOD_X, GOOD_Y, verbose=0)
    with pytest.raises(TypeError, match="cannot be written to a config"):
        robust.save(tmp_path / "a.keras")


def test_later_bad_batches_are_refused():
    images = np.concatenate([GOOD_X, GOOD_X * 255])
    labels = np.concatenate([GOOD_Y, GOOD_Y])
    robust = model()
    bad = tf.data.Dataset.from_tensor_slices((images, labels)).batch(6)
    for call in (robust.fit, robust.evaluate):
        with pytest.raises(ValueError, match="A batch has images with values outside"):
            call(bad, verbose=0)

    def generate():
        while True:
            yield GOOD_X, GOOD_Y + 7

    with pytest.raises(ValueError, match="A batch has labels that are not"):
        robust.fit(generate(), steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3)[GOOD_Y] * 0.9 + 0.1 / 3, "not one-hot rows with one column for each logit"),
        (GOOD_Y + 0.5, "not whole numbers from 0"),
    ],
    ids=["soft", "fractional"],
)
def test_later_bad_labels_are_refused(labels, message):
    first = np.eye(3)[GOOD_Y] if labels.ndim == 2 else GOOD_Y.astype(float)
    x, y = np.concatenate([GOOD_X, GOOD_X]), np.concatenate([first, labels])
    bad = tf.data.Dataset.from_tensor_slices((x, y)).batch(6)
    robust = model()
    for call in (robust.fit, robust.evaluate):
        with pytest.raises(ValueError, match=message):
            call(bad, verbose=0)


def test_images_of_unknown_rank_are_refused():
    spec = tf.TensorSpec(None), tf.TensorSpec(None, tf.int64)
    data = tf.data.Dataset.from_generator(lambda: iter([(GOOD_X, GOOD_Y)]), output_signature=spec)
    with pytest.raises(ValueError, match=r"rank of its images .* tf.ensure_shape"):
        model().fit(data, verbose=0)


def test_errors_of_pruning_are_raised_at_the_start():
    robust = model()
    pipeline = hydra_tf.HydraCallback(0.5, 1, 1, 1, allocation={"nope": 0.5})
    with pytest.raises(ValueError, match="nope"):
        robust.fit(GOOD_X, GOOD_Y, epochs=3, verbose=0, callbacks=[pipeline])

    def generate():
        while True:
            yield GOOD_X, GOOD_Y

    snip = hydra_tf.HydraCallback(0.5, 1, 0, 1, "snip")
    with pytest.raises(ValueError, match=r"snip.*generator"):
        robust.fit(generate(), steps_per_epoch=1, epochs=2, verbose=0, callbacks=[snip])
    assert int(robust.optimizer.iterations) == 0


@pytest.mark.parametrize("value", [1.00000024, -1e-6])
def test_pixels_outside_by_rounding_train_like_clipped_ones(value):
    images = np.where(np.arange(24).reshape(6, 4) % 3 == 0, np.float32(value), GOOD_X)
    models = [model("trades:epsilon=0.1,steps=2") for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    for robust, x in zip(models, (images, np.clip(images, 0, 1)), strict=True):
        robust.fit(x, GOOD_Y, shuffle=False, verbose=0)
    for one, other in zip(*(robust.get_weights() for robust in models), strict=True):
        np.testing.assert_array_equal(one, other)
    losses = [robust.evaluate(images, GOOD_Y, verbose=0) for robust in models]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("value", "words"), [(np.nan, "are NaN"), (np.inf, "infinite pixels")])
def test_later_nan_and_infinite_pixels_are_named(value, words):
    images = np.concatenate([GOOD_X, GOOD_X + np.float32(value)])
    bad = tf.data.Dataset.from_tensor_slices((images, np.concatenate([GOOD_Y, GOOD_Y]))).batch(6)
    with pytest.raises(ValueError, match=rf"^A batch has images with .*{words}"):
        model().fit(bad, verbose=0)
