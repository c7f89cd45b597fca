"""Models as users bring them: outputs, files, penalties, and warnings."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.initializers import GlorotUniform

import hydra_tf
from hydra_tf import evaluation
from hydra_tf.models import select_output
from hydra_tf.sparsity import masked_layers
from hydra_tf.training.step.phases import PHASES
from hydra_tf.training.step.robust_step import penalties, step_context

L = keras.layers
X, Y = np.random.default_rng(0).random((8, 4)).astype("float32"), np.arange(8) % 3


def small(*middle):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input([4]), *middle, L.Dense(3, name="logits")])


def several_outputs(as_dict):
    x = keras.Input([4])
    h = L.Dense(5, name="features")(x)
    logits = L.Dense(3, name="logits")(h)
    return keras.Model(x, {"scores": logits, "features": h} if as_dict else [h, logits])


@pytest.mark.parametrize(("as_dict", "choices"), [(True, ["scores", 1]), (False, [1, "logits"])])
def test_one_of_several_outputs_is_chosen(as_dict, choices):
    net = several_outputs(as_dict)
    wanted = net(X)["scores"] if as_dict else net(X)[1]
    for choice in choices:
        np.testing.assert_array_equal(select_output(net, choice)(X), wanted)
    model = hydra_tf.RobustModel(net, "natural", output=choices[0])
    model.compile("sgd")
    np.testing.assert_array_equal(model(X), wanted)
    model.fit(X, Y, verbose=0)
    with pytest.raises(
        ValueError, match=r"The model has no output 'x'; its outputs are .*'logits'"
    ):
        select_output(net, "x")


def test_a_dictionary_of_outputs_is_explained():
    net = several_outputs(as_dict=True)
    sentence = r"output of the model is a dictionary \('.*'\), .* hydra_tf.models.select_output"
    for call in (
        lambda: evaluation.accuracy(net, (X, Y)),
        lambda: hydra_tf.RobustModel(net, "natural"),
        lambda: hydra_tf.attacks.build("pgd")(net, X, Y, seed=0),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_one_logit_is_explained_and_the_advice_works():
    x = keras.Input([4])
    z = L.Dense(1)(x)
    y = Y % 2
    with pytest.raises(
        ValueError, match=r"one number for each image.*Concatenate\(\)\(\[0 \* z, z"
    ):
        evaluation.accuracy(keras.Model(x, z), (X, y))
    net = keras.Model(x, L.Concatenate()([0 * z, z]))
    positive = np.asarray(keras.Model(x, z)(X))[:, 0] > 0
    assert evaluation.accuracy(net, (X, y)) == np.mean(positive == (y == 1))


def test_hdf5_is_refused_when_it_is_saved(tmp_path):
    model = hydra_tf.RobustModel(small(), "natural")
    for name in ("m.h5", "m.hdf5"):
        with pytest.raises(
            ValueError, match=r'm\.h.*5": a RobustModel cannot be loaded from an HD'
        ):
            model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_plain_weights_are_explained(tmp_path):
    net, path = small(L.Dense(5)), tmp_path / "plain.weights.h5"
    net.save_weights(path)
    for model in (hydra_tf.mask_model(net), hydra_tf.RobustModel(net, "natural")):
        with pytest.raises(ValueError, match=r"net\.load_weights\(\.\.\.\), then "):
            model.load_weights(path)


def test_pruned_weights_are_not_penalised_in_finetuning():
    masked = hydra_tf.mask_model(small(L.Dense(5, kernel_regularizer=keras.regularizers.L2(1.0))))
    hydra_tf.set_density(masked, 0.5)
    layer = masked_layers(masked)[0]
    kernel, mask = np.asarray(layer.kernel), np.asarray(layer.mask)
    (penalty,) = penalties(masked)
    np.testing.assert_allclose(penalty, np.sum(kernel[mask] ** 2), rtol=1e-6)

    model = hydra_tf.RobustModel(masked, "natural")
    model.compile(keras.optimizers.SGD(0.1))
    model.set_phase("finetune")
    model.fit(X, Y, epochs=1, verbose=0)
    np.testing.assert_array_equal(np.asarray(layer.kernel)[~mask], kernel[~mask])
    assert np.all(np.asarray(layer.kernel)[mask] != kernel[mask])


@pytest.mark.parametrize("strength", [100.0, pytest.param(0.0, marks=pytest.mark.slow(seconds=3))])
def test_penalties_do_not_move_scores(strength):
    models = []
    for regularizer in (keras.regularizers.L2(strength), None):
        dense = L.Dense(5, kernel_initializer=GlorotUniform(0), kernel_regularizer=regularizer)
        model = hydra_tf.RobustModel(hydra_tf.mask_model(small(dense)), "natural")
        model.compile(keras.optimizers.SGD(0.1))
        hydra_tf.set_density(model, 0.5)
        model.set_phase("prune")
        model.fit(X, Y, epochs=2, verbose=0)
        models.append(model)
    for with_penalty, without in zip(*map(masked_layers, models), strict=True):
        np.testing.assert_array_equal(with_penalty.scores, without.scores)


def test_penalties_have_the_precision_of_the_weights():
    dense = L.Dense(3, kernel_regularizer=keras.regularizers.L2(1.0), dtype="mixed_float16")
    masked = hydra_tf.mask_model(keras.Sequential([keras.Input([200]), dense]))
    masked_layers(masked)[0].kernel.assign(np.full((200, 3), 20.0))
    np.testing.assert_allclose(penalties(masked), [600 * 400.0])  # beyond float16


def test_scores_that_do_not_move_are_warned_about(warned):
    dead = L.Dense(5, activation="relu", bias_initializer=keras.initializers.Constant(-100.0))
    for net, count in ((small(dead), 1), (small(), 0)):
        warned.clear()
        model = hydra_tf.RobustModel(net, "natural")
        model.compile("sgd")
        pipeline = hydra_tf.HydraCallback(0.5, 0, 2, 1)
        model.fit(X, Y, epochs=3, callbacks=[pipeline], verbose=0)
        unmoved = [text for text in warned if "no score has changed" in text]
        assert len(unmoved) == count, warned
        assert all("with a loss of 1.099" in text for text in unmoved)  # ln 3


def test_the_density_that_will_be_reached_is_warned_about(warned):
    net = hydra_tf.mask_model(small(L.Dense(8, name="first")), exclude="logits")  # 32 of 56
    assert "reach 57.1% of the kernel weights" in warned[0]
    model = hydra_tf.RobustModel(net, "natural")
    model.compile("sgd")
    model.fit(X, Y, epochs=1, callbacks=[hydra_tf.HydraCallback(0.25, 0, 0, 1)], verbose=0)
    # 0.25 * 32 / 56 + 24 / 56 = 0.571
    assert "at a density of 0.25 of the masked layers it keeps 57.1% of all" in warned[1]
    assert "logits (Dense) 42.9%" in warned[1]


@pytest.mark.parametrize("spec", ["natural:", "pgd:steps=1,", "trades:steps=1,beta=0,"])
def test_label_smoothing_is_that_of_keras(spec):
    net, context = small(), step_context(0, PHASES["pretrain"].index, 0, None)
    terms = hydra_tf.objectives.build(f"{spec}label_smoothing=0.2")(net, X, Y, context)
    logits = terms.logits if terms.adversarial_logits is None else terms.adversarial_logits
    if spec.startswith("trades"):
        logits = terms.logits
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    np.testing.assert_allclose(terms.loss, loss(tf.one_hot(Y, 3), logits), rtol=1e-5)
    with pytest.raises(ValueError, match=r"label_smoothing is a share in \[0, 1\), not 1"):
        hydra_tf.objectives.build(f"{spec}label_smoothing=1")
