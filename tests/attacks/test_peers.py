"""Foolbox and the Adversarial Robustness Toolbox as independent judges of robust accuracy."""

import warnings

import foolbox
import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.attacks.apgd import APGD
from hydra_tf.attacks.autoattack import AutoAttack
from hydra_tf.attacks.fab import FAB
from hydra_tf.attacks.pgd import PGD
from hydra_tf.attacks.square import Square

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ART names the frameworks that are not installed
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.estimators.classification import TensorFlowV2Classifier

EPSILON = {"linf": 0.1, "l2": 0.5}
ORDER = {"linf": np.inf, "l2": 2}
NETS = ("robust", "masked")
NORMS = ("linf", "l2")
ONE_POINT = 0.01 + 1e-9


@pytest.fixture(params=NETS)
def case(request):
    return request.getfixturevalue(request.param)


def cases(quick):
    """Both networks in both norms, all but the quick ones marked slow."""
    every = [(net, norm) for net in NETS for norm in NORMS]
    marks = [() if each in quick else pytest.mark.slow for each in every]
    params = [pytest.param(*each, marks=mark) for each, mark in zip(every, marks, strict=True)]
    return pytest.mark.parametrize(("case", "norm"), params, indirect=["case"])


def still_correct(net, x, y):
    return np.argmax(net(x, training=False), -1) == y


def ours(case, attack):
    net, x, y = case
    return still_correct(net, attack(net, x, y), y)


def foolboxs(case, attack, norm):
    net, x, y = case
    model = foolbox.TensorFlowModel(net, bounds=(0, 1))
    # EagerPy compares labels with predictions, and under NumPy 2 only of one type.
    labels = tf.constant(y, tf.int64)
    found = attack(model, tf.constant(x), labels, epsilons=EPSILON[norm])[1]
    return still_correct(net, found, y)


def arts(case, kind, **kwargs):
    net, x, y = case
    model = TensorFlowV2Classifier(
        net, nb_classes=10, input_shape=(8, 8, 1), clip_values=(0, 1),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
    )  # fmt: skip
    np.random.seed(0)
    attack = kind(model, batch_size=len(y), verbose=False, **kwargs)
    return still_correct(net, attack.generate(x, np.eye(10)[y]), y)


@cases(quick=[("robust", "l2")])
def test_pgd_of_50_steps_and_10_restarts_is_foolboxs(case, robust, norm):
    # Behind the mask, where their gradient is 0, ours does what theirs does without a mask.
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    tf.random.set_seed(0)
    theirs = foolboxs(robust, kind(steps=50, rel_stepsize=2.5 / 50).repeat(10), norm)
    found = ours(case, PGD(norm, EPSILON[norm], steps=50, restarts=10))
    assert abs(found.mean() - theirs.mean()) <= ONE_POINT


@cases(quick=[("robust", "linf"), ("masked", "l2")])
def test_apgd_on_the_cross_entropy_is_arts(case, robust, norm):
    kwargs = {"eps": EPSILON[norm], "eps_step": 2 * EPSILON[norm], "norm": ORDER[norm]}
    theirs = arts(
        robust, AutoProjectedGradientDescent, loss_type="cross_entropy", max_iter=100,
        nb_random_init=1, **kwargs,
    )  # fmt: skip
    found = ours(case, APGD(norm, EPSILON[norm], steps=100))
    assert abs(found.mean() - theirs.mean()) <= ONE_POINT


def test_fab_finds_the_boundary_that_foolboxs_minimal_norm_attack_finds(robust):
    theirs = foolboxs(robust, foolbox.attacks.DDNAttack(steps=100), "l2")
    found = ours(robust, FAB("l2", EPSILON["l2"], steps=50, targets=4))
    assert abs(found.mean() - theirs.mean()) <= ONE_POINT


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_apgd_on_the_difference_of_logits_ratio_is_arts(case, norm):
    kwargs = {"eps": EPSILON[norm], "eps_step": 2 * EPSILON[norm], "norm": ORDER[norm]}
    theirs = arts(
        case, AutoProjectedGradientDescent, loss_type="difference_logits_ratio", max_iter=100,
        nb_random_init=1, **kwargs,
    )  # fmt: skip
    found = ours(case, APGD(norm, EPSILON[norm], steps=100, loss="dlr"))
    assert abs(found.mean() - theirs.mean()) <= ONE_POINT


@pytest.mark.slow
def test_square_is_at_least_arts(case):
    # ART gives all images of a batch the same squares, and never one at the last row or
    # column. Its L2 form divides by zero on images of less than 10 pixels a side.
    epsilon = EPSILON["linf"]
    theirs = arts(case, SquareAttack, norm=np.inf, eps=epsilon, max_iter=1000, nb_restarts=1)
    found = ours(case, Square("linf", epsilon, queries=1000))
    assert theirs.mean() - 0.03 <= found.mean() <= theirs.mean() + ONE_POINT


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_the_ensemble_is_all_their_attacks_together(robust, masked, norm):
    epsilon = EPSILON[norm]
    kwargs = {"eps": epsilon, "eps_step": 2 * epsilon, "norm": ORDER[norm]}
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    nearest = {
        "linf": foolbox.attacks.LInfFMNAttack(steps=200),
        "l2": foolbox.attacks.DDNAttack(steps=200),
    }
    together = (
        foolboxs(robust, kind(steps=50, rel_stepsize=2.5 / 50).repeat(10), norm)
        & foolboxs(robust, nearest[norm], norm)
        & arts(
            robust, AutoProjectedGradientDescent, loss_type="cross_entropy", max_iter=100,
            nb_random_init=5, **kwargs,
        )
    )  # fmt: skip
    ensemble = AutoAttack(norm, epsilon, queries=1000)
    found = ours(robust, ensemble)
    assert abs(found.mean() - together.mean()) <= ONE_POINT
    # Behind the mask stands the same network, whatever gradients say.
    exposed = ours(masked, ensemble)
    assert abs(exposed.mean() - together.mean()) <= ONE_POINT
    fooled = foolboxs(masked, kind(steps=50, rel_stepsize=2.5 / 50), norm)
    assert fooled.mean() > exposed.mean() + 0.1
