"""Gradients that are zero or not finite: they are counted, warned of, and rescued."""

import functools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import attacks
from hydra_tf.attacks import ascent
from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.base import run_attack
from hydra_tf.attacks.gradients import (
    FOUND,
    MISSING,
    RESCUED,
    UNUSED,
    gradients_found,
    missing_gradients,
    rescued_slope,
    usable,
)
from hydra_tf.attacks.losses import cross_entropy, dlr, margin
from hydra_tf.evaluation import evaluate_model, robust_accuracy

RNG = np.random.default_rng(0)
X = RNG.random((64, 8)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class Rounding(keras.layers.Layer):
    """Rounds to eighths, which has no gradient."""

    def call(self, x):
        return tf.round(8.0 * x) / 8.0


def network(*first, scale=1.0):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    net = keras.Sequential([keras.Input([8]), *first, *layers])
    kernel, bias = layers[-1].get_weights()
    layers[-1].set_weights([scale * kernel, scale * bias])
    return net


def labels(net):
    return np.argmax(net(X, training=False), -1)


def without_rescue(net, x, y, epsilon, steps=20):
    """The accuracy under an ascent that follows the plain gradient."""
    loss = functools.partial(cross_entropy, y)
    kwargs = {"norm": "linf", "epsilon": epsilon, "step_size": 2.5 * epsilon / steps}
    x_adv = ascend(net, tf.constant(x), tf.constant(x), loss, steps=steps, **kwargs)
    return (np.argmax(net(x_adv, training=False), -1) == y).mean()


def test_usable_and_found_by_hand():
    inf, nan = np.inf, np.nan
    gradient = tf.constant([[[1.0], [0.0]], [[0.0], [0.0]], [[inf], [1.0]], [[0.0], [nan]]])
    assert usable(gradient).numpy().tolist() == [True, False, False, False]
    found = gradients_found(gradient, tf.constant([True, True, False, False]))
    assert found.numpy().tolist() == [RESCUED, MISSING, MISSING, MISSING]
    assert gradients_found(gradient)[0] == FOUND


def test_a_slope_that_is_not_zero_is_kept_to_the_bit():
    logits = tf.constant(RNG.normal(size=(50, 5), scale=5).astype("float32"))
    y = RNG.integers(0, 5, 50)
    for loss in (cross_entropy, margin, dlr):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = loss(y, logits)
        slope = rescued_slope(functools.partial(loss, y), logits)
        np.testing.assert_array_equal(slope.losses, losses)
        np.testing.assert_array_equal(slope.slope, tape.gradient(losses, logits))
        assert not slope.rescued.numpy().any()


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30, 1e37])
def test_a_saturated_slope_is_that_of_logits_that_differ_by_ten(scale):
    # Rescaled to (0, -8, -10); cross-entropy has the slope softmax - (1, 0, 0).
    logits = np.array([[10.0, 2.0, 0.0], [0.0, 1.0, 0.0]], "float32") * np.float32(scale)
    slope = rescued_slope(functools.partial(cross_entropy, [0, 0]), tf.constant(logits))
    assert slope.rescued.numpy().tolist() == [True, False]
    odds = np.exp([0.0, -8.0, -10.0])
    expected = odds / odds.sum() - [1, 0, 0]
    found = slope.slope.numpy()[0].astype("float64")
    np.testing.assert_allclose(found / found[1], expected / expected[1], rtol=1e-3)
    np.testing.assert_allclose(slope.losses[0], np.log(odds.sum()) - 20, rtol=1e-5)
    # Losses still tell which of two saturated images is closer to the boundary.
    nearer = rescued_slope(functools.partial(cross_entropy, [0]), logits[:1] * [[1, 4, 1]])
    assert slope.losses[0] < nearer.losses[0] < slope.losses[1]


@pytest.mark.parametrize("gap", [20.0, 40.0, 80.0])
def test_a_slope_whose_entry_for_the_label_was_rounded_to_zero_is_rescued(gap):
    # 1 - softmax rounds to 0 for the label, but the other entries are not 0.
    logits = tf.constant([[gap, 0.0, 1.0], [2.0, 0.0, 1.0]])
    slope = rescued_slope(functools.partial(cross_entropy, [0, 0]), logits)
    assert slope.rescued.numpy().tolist() == [True, False]
    assert slope.slope.numpy()[0, 0] < -0.5 * abs(slope.slope.numpy()[0]).max()


def test_a_class_that_is_masked_is_no_obstacle():
    logits = tf.constant([[500.0, 0.0, -np.inf]])
    slope = rescued_slope(functools.partial(cross_entropy, [0]), logits)
    assert slope.rescued.numpy().tolist() == [True]
    assert tf.sign(slope.slope).numpy()[0, :2].tolist() == [-1.0, 1.0]


def test_slopes_that_underflow_on_their_way_back_are_enlarged():
    # exp(-80) times 1e-9 is 0 in float32.
    def predict(x):
        return tf.concat([tf.fill(tf.shape(x), 80.0), 1e-9 * x], 1)

    x = tf.constant([[0.5]])
    found = ascent.evaluate(predict, functools.partial(cross_entropy, [0]), x)
    assert found.gradient.numpy()[0, 0] > 0
    assert found.found.numpy().tolist() == [RESCUED]


@pytest.mark.parametrize(
    ("spec", "scale"), [("pgd:steps=20,start=zero", 1e4), ("apgd:steps=20", 1e30)]
)
def test_large_logits_hide_nothing(spec, scale):
    net, steep = network(), network(scale=scale)
    y, epsilon = labels(net), 0.5
    assert np.array_equal(y, labels(steep))
    spec = attacks.build(spec, epsilon=epsilon)
    # The same predictions, hence the same robust accuracy.
    truth = without_rescue(net, X, y, epsilon)
    entry = evaluate_model(steep, (X, y), [spec])["attacks"][0]
    found = entry["robust_accuracy"]
    assert without_rescue(steep, X, y, epsilon) > truth + 0.1
    assert found <= truth + 0.03
    # Hardly any sample that is not broken has a gradient of its own.
    assert entry["zero_gradient_share"] > 0.8 * found
    assert entry["rescued_gradient_share"] == entry["zero_gradient_share"]


def test_fgsm_takes_the_step_of_smaller_logits():
    def model(x, training=False):
        return 1e4 * tf.concat([tf.zeros_like(x[:, :1]), x[:, :1] - 2 * x[:, 1:]], 1)

    found = run_attack(attacks.build("fgsm:epsilon=0.1"), model, [[0.3, 0.8]], [0])
    np.testing.assert_allclose(found.images, [[0.4, 0.7]], rtol=1e-6)
    assert found.gradients.numpy().tolist() == [RESCUED]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rescued_pgd_comes_close_to_autoattack(norm):
    steep = network(scale=1e4)
    y, ball = labels(steep), {"norm": norm, "epsilon": 0.4 if norm == "linf" else 0.8}
    small = "autoattack:steps=20,targets=2,queries=100"
    found, ensemble = (
        robust_accuracy(steep, (X, y), attacks.build(spec, **ball))
        for spec in ("pgd:steps=20,restarts=2", small)
    )
    assert ensemble - 1e-9 <= found <= ensemble + 0.08


def test_a_healthy_network_keeps_its_bits(trained, monkeypatch):
    net, x, y = trained
    logits = net(x).numpy()
    others = np.where(np.arange(10) == y[:, None], -np.inf, logits).max(1)
    unsure = logits[np.arange(len(y)), y] - others < 8  # others are rescued
    x, y = x[unsure], y[unsure]
    assert len(x) > 8
    specs = ["pgd:epsilon=0.06,steps=4", "apgd:norm=l2,epsilon=0.4,steps=6"]
    results = [run_attack(attacks.build(spec), net, x, y) for spec in specs]
    for found in results:
        assert found.gradients.numpy().tolist() == [FOUND] * len(x)

    def plain(predict, loss, x_adv):
        evaluation = ascent._evaluate(predict, loss, x_adv)
        return evaluation._replace(found=gradients_found(evaluation.gradient))

    monkeypatch.setattr(ascent, "evaluate", plain)
    clone = keras.models.clone_model(net)
    clone.set_weights(net.get_weights())
    for spec, found in zip(specs, results, strict=True):
        np.testing.assert_array_equal(attacks.build(spec)(clone, x, y), found.images)


def test_a_rounding_layer_is_told_and_square_sees_through_it(caplog):
    net = network(Rounding())
    y = labels(net)
    specs = ["pgd:steps=5", "square:queries=100"]
    with caplog.at_level(logging.WARNING, logger="absl"):
        entries = evaluate_model(net, (X, y), specs, epsilon=0.4)["attacks"]
    shares = [entry["zero_gradient_share"] for entry in entries]
    assert shares == [1.0, 0.0]
    assert [entry["rescued_gradient_share"] for entry in entries] == [0.0, 0.0]
    pgd, square = (entry["robust_accuracy"] for entry in entries)
    assert square < pgd - 0.1
    # TensorFlow may warn of retracing.
    (text,) = [text for text in caplog.messages if text.startswith("hydra_tf")]
    assert text.startswith('hydra_tf: the gradient of the attack "pgd" was zero')
    assert "100.0% of the images" in text and '"square", which needs no gradient' in text


def test_robust_accuracy_warns_of_steep_networks_only(caplog):
    net, steep = network(), network(scale=1e4)
    y = labels(net)
    with caplog.at_level(logging.WARNING, logger="absl"):
        robust_accuracy(net, (X, y), "fgsm:epsilon=0.1")
        assert not caplog.messages
        robust_accuracy(steep, (X, y), "fgsm:epsilon=0.1")
    (text,) = caplog.messages
    assert 'Attack them with "autoattack" or "pgd:loss=margin" as well.' in text


def test_gradients_that_are_not_finite_do_not_move_a_sample(trained):
    # The gradient of the square root is infinite at 0, and 0 times infinity is NaN.
    def model(x, training=False):
        root = tf.sqrt(tf.maximum(x - 0.9, 0.0))
        return tf.concat([tf.fill(tf.shape(root), 2.0), root], 1)

    x, y = np.full((3, 1), 0.5, "float32"), np.zeros(3, "int32")
    for spec in ("pgd:start=zero,steps=3", "fgsm", "apgd:steps=5"):
        found = run_attack(attacks.build(spec), model, x, y)
        assert np.isfinite(found.images).all()
        assert found.gradients.numpy().tolist() == [MISSING] * 3


def test_the_share_is_of_the_images_that_are_correct_without_an_attack():
    net = network(Rounding())
    y = labels(net)
    y[:16] = (y[:16] + 1) % 3
    entry = evaluate_model(net, (X, y), ["pgd:steps=2,epsilon=0.01"])["attacks"][0]
    assert entry["zero_gradient_share"] == 1.0
    entry = evaluate_model(net, (X, (labels(net) + 1) % 3), ["pgd:steps=2"])["attacks"][0]
    assert entry["zero_gradient_share"] == 0.0  # no image was attacked


def test_without_steps_no_gradient_is_missing():
    net = network(Rounding())
    y = labels(net)
    for spec in ("pgd:steps=0", "cleverhans_pgd:steps=0", "square:queries=3"):
        found = run_attack(attacks.build(spec), net, X, y).gradients
        assert found.numpy().tolist() == [UNUSED] * len(X)


def test_nothing_is_said_of_attacks_whose_gradients_are_unknown(caplog):
    def attack(model, x, y, seed=0):
        return x

    class Still(type(attacks.build("fgsm"))):
        def perturb(self, predict, x, y, seed):
            return x

    net = network(Rounding())
    with caplog.at_level(logging.WARNING, logger="absl"):
        for unknown in (attack, Still()):
            entry = evaluate_model(net, (X, labels(net)), [unknown])["attacks"][0]
            assert not any("gradient" in key for key in entry)
    assert not caplog.messages


def test_warnings_name_a_better_attack():
    assert missing_gradients("pgd", 0.01) is None
    assert '"autoattack" or "pgd:loss=margin" as well' in missing_gradients("fgsm", 0.02, 0.02)
    assert '"autoattack" or "square", which' in missing_gradients("fgsm", 0.02)
    assert 'Attack them with "square:queries=20000", which' in missing_gradients("autoattack", 0.02)
