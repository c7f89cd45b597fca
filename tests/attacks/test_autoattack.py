"""The ensemble: its order, who sees which samples, and what hidden gradients do to it."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import attacks
from hydra_tf.attacks import autoattack
from hydra_tf.attacks.apgd import APGD
from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.autoattack import AutoAttack
from hydra_tf.attacks.fab import FAB
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.attacks.pgd import PGD
from hydra_tf.attacks.restarts import Attempt, attack_remaining
from hydra_tf.attacks.square import Square
from hydra_tf.core.randomness import stateless_seed

EPSILON = {"linf": 0.1, "l2": 0.5}
SMALL = {"steps": 30, "targets": 3, "queries": 200}


def still_correct(net, x, y):
    return np.argmax(net(x, training=False), -1) == y


def test_no_attack_sees_an_empty_batch():
    def attack(x, y):
        tf.debugging.assert_positive(tf.shape(x)[0])
        return Attempt(x + 0.5, tf.ones_like(y, tf.bool), y)

    images, zeros = tf.constant([[0.1], [0.2]]), tf.zeros(2, tf.int32)
    remaining = tf.function(functools.partial(attack_remaining, attack))
    for broken, expected in (([True, True], [0.1, 0.2]), ([True, False], [0.1, 0.7])):
        result = remaining(images, zeros, Attempt(images, tf.constant(broken), zeros))
        np.testing.assert_allclose(result.images[:, 0], expected)
        assert result.broken.numpy().all()


def test_the_standard_ensemble():
    assert AutoAttack(norm="l2", epsilon=0.5).ensemble == (
        APGD("l2", 0.5, steps=100, restarts=1, loss="ce", targets=0),
        APGD("l2", 0.5, steps=100, restarts=1, loss="dlr", targets=9),
        FAB("l2", 0.5, steps=100, targets=9),
        Square("l2", 0.5, queries=5000, p_init=0.8),
    )
    small = attacks.build("autoattack:epsilon=0.3,steps=20,targets=2,queries=500")
    assert [attack.epsilon for attack in small.ensemble] == [0.3] * 4
    assert [getattr(attack, "steps", None) for attack in small.ensemble] == [20, 20, 20, None]
    assert [getattr(attack, "targets", None) for attack in small.ensemble] == [0, 2, 2, None]
    assert small.ensemble[3].queries == 500


def test_each_attack_sees_what_the_ones_before_have_left(monkeypatch):
    # Pixels over 0.5 are class 1; attack number i lifts the samples whose pixel is 0.i + 0.1.
    seen = []

    def predict(x):
        return tf.concat([tf.fill(tf.shape(x), 0.5), x], 1)

    class Lift:
        uses_gradients = False

        def __init__(self, i):
            self.i = i

        def perturb(self, predict, x, y, seed):
            seen.append((x.numpy().astype(float).round(3).ravel().tolist(), seed.numpy().tolist()))
            return tf.where(tf.abs(x - 0.1 * self.i - 0.1) < 1e-3, x + 0.45, x + 0.001)

    order = property(lambda self: (Lift(0), Lift(1), Lift(2)))
    monkeypatch.setattr(autoattack.AutoAttack, "ensemble", order)
    x = tf.constant([[0.2], [0.9], [0.1], [0.3], [0.15]])
    y = tf.zeros(5, tf.int32)
    found = AutoAttack().perturb(predict, x, y, stateless_seed(7)).numpy()
    assert [each for each, _ in seen] == [[0.2, 0.1, 0.3, 0.15], [0.2, 0.3, 0.15], [0.3, 0.15]]
    assert len({tuple(seed) for _, seed in seen}) == 3
    np.testing.assert_allclose(found.ravel(), [0.65, 0.9, 0.55, 0.75, 0.15], rtol=1e-6)


def test_the_ensemble_breaks_what_its_first_attacks_break(robust):
    net, x, y = robust
    x, y = x[:100], y[:100]
    ensemble = AutoAttack("l2", EPSILON["l2"], steps=10, targets=2, queries=30)
    seed, benign = stateless_seed(3), still_correct(net, x, y)
    found = ensemble.perturb(net, tf.constant(x), tf.constant(y), seed).numpy()
    left = still_correct(net, found, y)
    alone = tf.constant(x[benign]), tf.constant(y[benign])
    first, second = (
        attack.perturb(net, *alone, tf.random.fold_in(seed, i)).numpy()
        for i, attack in enumerate(ensemble.ensemble[:2])
    )
    first_held = still_correct(net, first, y[benign])
    assert 0 < (~first_held).sum() < benign.sum()
    # What the first attack breaks has its image; what is wrong or holds is as it was.
    np.testing.assert_allclose(found[benign][~first_held], first[~first_held], atol=1e-5)
    assert np.array_equal(found[~benign], x[~benign])
    assert np.array_equal(found[left], x[left])
    assert not (left[benign] & ~(first_held & still_correct(net, second, y[benign]))).any()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_masked_gradients_fool_a_loss_without_rescue_but_not_the_ensemble(robust, masked, norm):
    epsilon = EPSILON[norm]
    net, x, y = robust
    x, y, steep = x[:200], y[:200], masked[0]
    assert np.array_equal(still_correct(net, x, y), still_correct(steep, x, y))
    true = still_correct(net, PGD(norm, epsilon, steps=20)(net, x, y), y).mean()
    loss, kwargs = functools.partial(cross_entropy, y), {"norm": norm, "epsilon": epsilon}
    x = tf.constant(x)
    plain = ascend(steep, x, x, loss, step_size=epsilon / 8, steps=20, **kwargs)
    assert still_correct(steep, plain, y).mean() > true + 0.1
    rescued = still_correct(steep, PGD(norm, epsilon, steps=20)(steep, x, y), y).mean()
    assert abs(rescued - true) <= 0.01
    ensemble = AutoAttack(norm, epsilon, **SMALL)
    exposed = still_correct(steep, ensemble(steep, x, y), y)
    # The same network behind the mask: the same robust accuracy, to one point.
    unmasked = still_correct(net, ensemble(net, x, y), y)
    assert abs(exposed.sum() - unmasked.sum()) <= len(y) / 100
    assert exposed.mean() <= true


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.slow(seconds=8))])
def test_few_classes(norm, classes):
    # Logits 0, w . x - c and, with three, one that never wins: whose distance is known.
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, 1)).astype("float32")
    x = rng.uniform(0.4, 0.6, (40, 6)).astype("float32")

    def model(z):
        score = tf.matmul(z, weights) - 0.5 * weights.sum() - 0.5
        rows = [tf.zeros_like(score), score, tf.zeros_like(score) - 9.0]
        return tf.concat(rows[:classes], 1)

    dual = np.abs(weights).sum() if norm == "linf" else np.linalg.norm(weights)
    distance = (-model(x)[:, 1] / dual).numpy()
    epsilon = float(np.median(distance))
    y = np.zeros(40, "int32")
    attack = AutoAttack(norm, epsilon, steps=20, queries=50)
    found = attack.perturb(model, tf.constant(x), tf.constant(y), stateless_seed(0))
    broken = np.argmax(model(found), -1) != y
    clear = abs(distance - epsilon) > 0.01 * epsilon
    assert np.array_equal(broken[clear], (distance < epsilon)[clear])


def test_one_class_is_refused():
    with pytest.raises(
        ValueError, match=r"logits of at least 2 classes; for two classes by one logit z"
    ):
        AutoAttack()(lambda z, training: z[:, :1], np.zeros((2, 3), "float32"), [0, 0])


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"steps": -1}, "steps must be at least 0, not -1"),
        ({"targets": 0}, "targets must be at least 1, not 0"),
        ({"queries": 0}, "queries must be at least 1, not 0"),
        ({"epsilon": -0.1}, "epsilon must be"),
    ],
)
def test_bad_parameters_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        AutoAttack(**kwargs)
