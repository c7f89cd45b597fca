"""The attack of an objective: against the default loop, CleverHans itself, and its refusals."""

import re
from dataclasses import dataclass, replace

import cleverhans.tf2.attacks.projected_gradient_descent as cleverhans
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import attacks, objectives
from hydra_tf.attacks import ATTACKS, LossAttack, random_start
from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.base import perturbed
from hydra_tf.attacks.inference import inference
from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.attacks.square import Square
from hydra_tf.core.randomness import stateless_seed
from hydra_tf.core.types import StepContext
from hydra_tf.objectives.base import kl_divergence

EPSILON = {"linf": 0.1, "l2": 0.8}
ORDER = {"linf": np.inf, "l2": 2}
SEED = stateless_seed(3)


def images_of(objective, net, x, loss, seed=SEED, progress=1.0):
    context = StepContext(tf.constant(seed), tf.constant(progress))
    run = tf.function(lambda x: objective.adversarial_images(inference(net), x, loss, context))
    return run(tf.constant(x)).numpy()


def losses_of(net, x, y):
    """Return the losses of pgd and trades."""
    benign = net(x, training=False)
    return {
        "pgd": lambda logits: cross_entropy(y, logits),
        "trades": lambda logits: kl_divergence(benign, logits),
    }


def cleverhans_itself(net, x, start, loss, norm, epsilon, steps, monkeypatch):
    """Return the images of `projected_gradient_descent` from a given start."""
    drawn = tf.convert_to_tensor(start - x)
    monkeypatch.setattr(cleverhans, "random_lp_vector", lambda *_, **__: drawn)
    return cleverhans.projected_gradient_descent(
        lambda z: net(z, training=False), tf.constant(x), epsilon, 2.5 * epsilon / steps, steps,
        ORDER[norm], loss_fn=lambda labels, logits: loss(logits), clip_min=0.0, clip_max=1.0,
        y=tf.zeros([len(x)], tf.int32), rand_init=True,
    ).numpy()  # fmt: skip


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "trades"])
def test_cleverhans_as_attack_is_cleverhans_itself(name, norm, trained, monkeypatch):
    net, x, y = trained
    loss, epsilon = losses_of(net, x, y)[name], EPSILON[norm]
    spec = f"{name}:norm={norm},epsilon={epsilon},steps=5,attack=cleverhans_pgd"
    objective = objectives.build(spec)
    found = images_of(objective, net, x, loss)
    start = random_start(tf.constant(x), norm, epsilon, SEED, objective.start).numpy()
    expected = cleverhans_itself(net, x, start, loss, norm, epsilon, 5, monkeypatch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(found - start).max() > 0.05


@pytest.mark.parametrize("progress", [0.25, 1.0])
@pytest.mark.parametrize("start", ["normal", "uniform"])
def test_trades_with_cleverhans_equals_our_own_ascent(start, progress, trained):
    net, x, y = trained
    loss = losses_of(net, x, y)["trades"]
    ours = objectives.build(f"trades:epsilon=0.1,steps=4,ramp=1,start={start}")
    theirs = replace(ours, attack="cleverhans_pgd")
    images = [images_of(one, net, x, loss, progress=progress) for one in (ours, theirs)]
    np.testing.assert_allclose(*images, rtol=0, atol=1e-6)
    # With a quarter of epsilon, four steps of 2.5/4 of it reach the border.
    assert np.abs(images[0] - x).max() == pytest.approx(0.1 * progress, abs=1e-6)


def test_cleverhans_depends_on_the_seed_of_the_call_only(trained):
    net, x, y = trained
    attack = attacks.build("cleverhans_pgd:epsilon=0.1,steps=3,random_start=true")
    tf.random.set_seed(1)
    first = attack(net, x, y, seed=4).numpy()
    tf.random.set_seed(2)
    np.testing.assert_array_equal(attack(net, x, y, seed=4), first)
    assert not np.array_equal(attack(net, x, y, seed=5), first)


def linear_net(x, training=False):
    """Two logits whose difference is linear in the pixels, so that no ascent can overshoot."""
    weights = np.linspace(-1, 1, int(np.prod(x.shape[1:])), dtype="float32")
    score = tf.reshape(x, [tf.shape(x)[0], -1]) @ weights[:, None]
    return tf.concat([score, -score], 1)


@pytest.mark.parametrize("start", ["normal", "uniform", "zero"])
def test_pgd_has_the_bits_of_the_default_loop_where_the_last_iterate_is_the_best(start):
    rng = np.random.default_rng(0)
    x, y = rng.random((9, 6, 6, 1), "float32"), (np.arange(9) % 2).astype("int32")
    # The step size is such that the border of the ball is not reached.
    spec = f"pgd:epsilon=0.1,steps=5,step_size=0.01,start={start},ramp=1"
    default = objectives.build(spec)
    loss = lambda logits: cross_entropy(y, logits)  # noqa: E731
    nested = replace(default, attack="pgd")
    for progress in (0.5, 1.0):
        images = [
            images_of(one, linear_net, x, loss, progress=progress) for one in (default, nested)
        ]
        np.testing.assert_array_equal(*images)
    assert nested.attack == attacks.build(f"pgd:epsilon=0.1,steps=5,step_size=0.01,start={start}")


@pytest.mark.parametrize("name", ["apgd", "pgd", "fgsm"])
def test_evaluation_and_training_agree_on_samples_that_stay_correct(name, trained):
    net, x, y = trained
    kind = "zero" if name == "fgsm" else "uniform"
    attack = attacks.build(f"{name}:epsilon=0.004", steps=8)
    args = inference(net), tf.constant(x), tf.constant(y)
    found = perturbed(attack, *args, SEED)
    climbed = attack.climb(
        *args[:2], lambda logits: cross_entropy(y, logits),
        lambda seed: random_start(args[1], "linf", 0.004, seed, kind), SEED,
    )  # fmt: skip
    # Neither misclassified, nor so confident that evaluation rescues the gradient.
    logits = np.sort(net(x), axis=1)
    same = (np.argmax(net(found.images), -1) == y) & (logits[:, -1] - logits[:, -2] < 12)
    assert same.sum() > 40
    np.testing.assert_array_equal(found.images[same], climbed[same])


@pytest.mark.parametrize("name", ["apgd", "pgd"])
def test_training_climbs_on_where_evaluation_stops(name, trained):
    net, x, _ = trained
    y = (np.argmax(net(x), -1) + 1) % 10  # all are misclassified
    attack = attacks.build(f"{name}:epsilon=0.1,steps=5")
    loss = lambda logits: cross_entropy(y, logits)  # noqa: E731
    start = lambda seed: tf.constant(x)  # noqa: E731
    climbed = attack.climb(inference(net), tf.constant(x), loss, start, SEED)
    before, after = loss(net(x)), loss(net(climbed))
    assert (after > before + 0.1).numpy().all()
    if name == "apgd":
        np.testing.assert_array_equal(attack(net, x, y), x)


@pytest.mark.parametrize("name", ["apgd", "pgd"])
def test_the_best_of_all_restarts_is_returned(name, trained):
    net, x, y = trained
    loss = losses_of(net, x, y)["trades"]
    attack = attacks.build(f"{name}:epsilon=0.1,steps=2")
    start = lambda seed: random_start(tf.constant(x), "linf", 0.1, seed)  # noqa: E731
    args = inference(net), tf.constant(x), loss, start
    seeds = [SEED, *(tf.random.fold_in(SEED, i) for i in (1, 2))]
    single = np.array([attack.climb(*args, seed) for seed in seeds])
    best = np.argmax([loss(net(images)) for images in single], axis=0)
    assert len(set(best)) == 3
    found = replace(attack, restarts=3).climb(*args, SEED)
    np.testing.assert_array_equal(found, single[best, np.arange(len(x))])


def test_trades_and_fgsm_start_where_the_kl_has_a_gradient(trained):
    net, x, y = trained
    objective = objectives.build("trades:epsilon=0.1,attack=fgsm")
    found = images_of(objective, net, x, losses_of(net, x, y)["trades"])
    # One step of length epsilon from x + 0.001 * N(0, I).
    assert (np.abs(found - x)[(x > 0.1) & (x < 0.9)] > 0.09).mean() > 0.9


def test_objectives_give_ball_start_and_steps_to_their_attack():
    build = objectives.build
    attack = build("pgd:norm=l2,epsilon=0.5,steps=7,step_size=0.1,attack=pgd").attack
    assert attack == attacks.build("pgd:norm=l2,epsilon=0.5,steps=7,step_size=0.1")
    attack = build("trades:steps=7,step_size=0.02,attack=(pgd:steps=3,restarts=2)").attack
    assert (attack.steps, attack.step_size, attack.restarts) == (3, 0.02, 2)
    assert attack.start == "normal"
    assert build("pgd:attack=fgsm,epsilon=0.2").attack.epsilon == 0.2
    assert build("pgd:attack=(apgd:loss=ce)") == build("pgd:attack=apgd")
    attack = attacks.build("apgd:epsilon=0.2,steps=3")
    assert build({"name": "pgd", "epsilon": 0.2, "attack": attack}).attack is attack
    mapping = {"name": "apgd", "steps": 3}
    assert build({"name": "pgd", "epsilon": 0.2, "attack": mapping}).attack == attack


@pytest.mark.parametrize(
    "name", [name for name in ATTACKS.names() if name not in ATTACKS.names(LossAttack)]
)
@pytest.mark.parametrize("objective", ["pgd", "trades"])
def test_attacks_without_a_loss_are_refused_by_name(objective, name):
    sentence = (
        f'The attack "{name}" does not climb a loss, so that an objective cannot use it; use one '
        "of: apgd, cleverhans_pgd, fgsm, pgd."
    )
    for spec in (f"{objective}:attack={name}", {"name": objective, "attack": {"name": name}}):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            objectives.build(spec)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        objectives.build({"name": objective, "attack": attacks.build(name)})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pgd:attack=(pgd:norm=l2)", "norm of \"pgd\" is 'l2' instead of 'linf'; leave it out"),
        ("pgd:epsilon=0.2,attack=(fgsm:epsilon=0.1)", 'epsilon of "fgsm" is 0.1 instead of 0.2'),
        ("trades:attack=(pgd:start=zero)", "start of \"pgd\" is 'zero' instead of 'normal'"),
        (
            "trades:attack=(cleverhans_pgd:random_start=false)",
            'random_start of "cleverhans_pgd" is False instead of True',
        ),
        ("pgd:attack=(apgd:loss=dlr)", "loss of \"apgd\" is 'dlr' instead of 'ce'"),
        ("trades:attack=(pgd:loss=margin)", "loss of \"pgd\" is 'margin' instead of 'ce'"),
        ("pgd:attack=(apgd:targets=2)", 'targets of "apgd" is 2 instead of 0'),
        ("pgd:step_size=0.01,attack=apgd", 'The attack "apgd" has no step_size; leave out that'),
        ("pgd:epsilon=0.1,step_size=0.2,attack=cleverhans_pgd", "step_size of at most epsilon"),
        ("pgd:step_size=0.02,attack=(pgd:step_size=0.01)", "has a step_size of 0.01, and the obje"),
        ("trades:start=zero,attack=cleverhans_pgd", "TRADES cannot start its attack at the unpert"),
        ("pgd:attack=(apgd:step=3)", 'Unknown parameter of attack "apgd": "step"; did you mean'),
        ("pgd:attack=apgdd", 'Unknown attack "apgdd"; did you mean "apgd"'),
        ("free:attack=apgd", 'Unknown parameter of objective "free": "attack"'),
        ({"name": "pgd", "attack": attacks.build("apgd:epsilon=0.3")}, "is 0.3 instead of 0.03"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        objectives.build(spec)


@pytest.mark.parametrize("attack", [3, 0.5, ["pgd"], print, LossAttack, Square])
def test_what_is_no_attack_is_refused(attack):
    with pytest.raises(TypeError, match="must be Attack or text or a mapping or none, not"):
        objectives.build({"name": "pgd", "attack": attack})
    with pytest.raises((TypeError, ValueError), match="The attack "):
        objectives.pgd.PGDTraining(attack=attack)


def test_a_users_attack_is_used_by_its_name(trained):
    net, x, y = trained

    @ATTACKS.register("halfway")
    @dataclass(frozen=True)
    class Halfway(LossAttack):
        """One step of half the radius."""

        def climb(self, predict, x, loss, start, seed, epsilon_share=1.0):
            epsilon = epsilon_share * self.epsilon
            return ascend(
                predict, x, start(seed), loss,
                norm=self.norm, epsilon=epsilon, step_size=epsilon / 2, steps=1,
            )  # fmt: skip

    try:
        objective = objectives.build("pgd:epsilon=0.1,start=zero,attack=halfway")
        assert objectives.build(objectives.OBJECTIVES.config(objective)) == objective
        found = images_of(objective, net, x, losses_of(net, x, y)["pgd"])
        assert np.abs(found - x).max() == pytest.approx(0.05, abs=1e-6)
        with pytest.raises(ValueError, match="apgd, cleverhans_pgd, fgsm, halfway, pgd"):
            objectives.build("pgd:attack=square")
    finally:
        ATTACKS._parts.pop("halfway")
