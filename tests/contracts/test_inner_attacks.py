"""Every adversarial objective with every attack that climbs a loss, and wrong ones."""

from dataclasses import dataclass, replace

import pytest
import tensorflow as tf

from hydra_tf.attacks import ATTACKS, LossAttack
from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.fgsm import FGSM
from hydra_tf.objectives import OBJECTIVES
from hydra_tf.objectives.base import Adversarial
from hydra_tf.objectives.pgd import PGDTraining
from tests.contracts import inner_attack_contract as contract
from tests.contracts import objective_contract

CLIMBING = ATTACKS.names(LossAttack)
NORMS = {"linf": 0.2, "l2": 0.5}
PAIRS = [(one, other) for one in OBJECTIVES.names(Adversarial) for other in CLIMBING]
every_pair = pytest.mark.parametrize(
    ("objective", "attack"), PAIRS, ids=[":".join(pair) for pair in PAIRS]
)
every_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture(autouse=True)
def without_tracing(request):
    """Compute eagerly, since tracing takes longer than one call on a small network."""
    tf.config.run_functions_eagerly("two_replicas" not in request.fixturenames)
    yield
    tf.config.run_functions_eagerly(False)


def build(objective, attack, norm="linf", **settings):
    # A step that does not reach the border of the ball, so that the random start is not lost.
    steps = {"steps": 2}
    if "step_size" in ATTACKS.parameters(attack):
        steps["step_size"] = 0.03
    ball = {"norm": norm, "epsilon": NORMS[norm]}
    return OBJECTIVES.build({"name": objective, "attack": attack, **steps, **ball, **settings})


@every_norm
@every_pair
def test_images_stay_in_the_ball_of_the_growing_epsilon(objective, attack, norm):
    steps = {"steps": 3, "step_size": None}
    contract.check_ramp(build(objective, attack, norm, ramp=1.0, **steps))


@every_pair
def test_random_numbers_depend_on_the_seed_only(objective, attack):
    objective_contract.check_random_numbers(build(objective, attack))


@every_pair
def test_microbatches_have_the_gradients_of_the_batch(objective, attack):
    objective_contract.check_microbatches(build(objective, attack))


@pytest.mark.slow
@every_pair
def test_replicas_have_the_gradients_of_the_batch(objective, attack, two_replicas):
    objective_contract.check_replicas(build(objective, attack), two_replicas)


@pytest.mark.slow
@every_pair
def test_loss_and_gradients_are_finite(objective, attack):
    objective_contract.check_finite(build(objective, attack))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@every_pair
def test_mixed_precision(objective, attack, policy):
    objective_contract.check_mixed_precision(build(objective, attack), policy)


@every_pair
def test_the_validation_attack_stays_pgd(objective, attack):
    part = build(objective, attack)
    assert part.validation_attack() == replace(part, attack=None).validation_attack()


@pytest.mark.parametrize("attack", CLIMBING)
@every_norm
def test_the_largest_loss_of_a_linear_model_is_found(attack, norm):
    built = ATTACKS.build(attack, norm=norm, epsilon=NORMS[norm], steps=4)
    contract.check_climb(built)


@pytest.mark.parametrize("attack", CLIMBING)
def test_an_empty_batch_stays_empty(attack):
    tf.config.run_functions_eagerly(False)  # in training, the size of a batch is not in the graph
    contract.check_empty_batch(ATTACKS.build(attack, steps=2))


@pytest.mark.parametrize("attack", ["apgd", "pgd"])
def test_restarts_do_not_mix_the_samples_of_a_batch(attack):
    nested = {"name": attack, "restarts": 2}
    part = OBJECTIVES.build({"name": "trades", "epsilon": 0.2, "steps": 2, "attack": nested})
    objective_contract.check_microbatches(part)


@dataclass(frozen=True)
class IgnoresShare(FGSM):
    """It uses the whole epsilon from the beginning."""

    def climb(self, predict, x, loss, start, seed, epsilon_share=1.0):
        return super().climb(predict, x, loss, start, seed)


@dataclass(frozen=True)
class IgnoresLoss(FGSM):
    """It climbs the first logit."""

    def climb(self, predict, x, loss, start, seed, epsilon_share=1.0):
        return super().climb(predict, x, lambda z: z[:, 0], start, seed, epsilon_share)


@dataclass(frozen=True)
class Descends(FGSM):
    """It goes the wrong way."""

    def climb(self, predict, x, loss, start, seed, epsilon_share=1.0):
        return super().climb(predict, x, lambda z: -loss(z), start, seed, epsilon_share)


@dataclass(frozen=True)
class Stays(FGSM):
    """It does not move."""

    def climb(self, predict, x, loss, start, seed, epsilon_share=1.0):
        return x


@dataclass(frozen=True)
class FixedSize(FGSM):
    """It returns at least one image."""

    def climb(self, predict, x, loss, start, seed, epsilon_share=1.0):
        return tf.concat([x, tf.zeros([1, *x.shape[1:]])], 0)


@dataclass(frozen=True)
class MixesSamples(FGSM):
    """Its step depends on the whole batch."""

    def climb(self, predict, x, loss, start, seed, epsilon_share=1.0):
        losses = tf.reduce_mean(loss(predict(x)))
        return ascend(
            predict, x, start(seed), loss,
            norm=self.norm, epsilon=self.epsilon, step_size=0.01 * losses, steps=1,
        )  # fmt: skip


def ramped(attack):
    contract.check_ramp(PGDTraining(epsilon=0.2, ramp=1.0, attack=attack(epsilon=0.2)))


def microbatches(attack):
    objective_contract.check_microbatches(PGDTraining(epsilon=0.2, attack=attack(epsilon=0.2)))


def climbs(attack):
    contract.check_climb(attack(epsilon=0.2))


def empty(attack):
    contract.check_empty_batch(attack())


@pytest.mark.parametrize(
    ("check", "wrong", "sentence"),
    [
        (ramped, IgnoresShare, "leaves the ball of its growing epsilon"),
        (ramped, Stays, "does not climb"),
        (climbs, IgnoresShare, "misses the largest loss"),
        (climbs, IgnoresLoss, "misses the largest loss"),
        (climbs, Descends, "misses the largest loss"),
        (empty, FixedSize, "for none"),
        (microbatches, MixesSamples, "differs from the whole batch"),
    ],
)
def test_a_wrong_attack_is_caught(check, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(wrong)
