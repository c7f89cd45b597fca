"""Every registered attack, and wrong ones that the contract catches."""

import functools
from dataclasses import dataclass

import pytest
import tensorflow as tf

from hydra_tf.attacks import ATTACKS, random_start
from hydra_tf.attacks.fgsm import FGSM
from tests.contracts import attack_contract as contract

# Slow tests: attacks that consist of others, which have their own tests.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if hasattr(ATTACKS.build(name), "ensemble") else ())
    for name in ATTACKS.names()
]


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_stays_in_ball_and_pixel_range(name):
    contract.check_ball(functools.partial(contract.short, name))


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_follows_its_seed(name):
    contract.check_seed(contract.short(name, "linf", 0.02, steps=2, queries=8))


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_uses_inference_mode_and_takes_empty_batches(name):
    attack = contract.short(name, "linf", 0.1, steps=2, queries=5, targets=1)
    contract.check_inference_mode(attack)
    contract.check_empty_batch(attack)


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_breaks_what_it_can_reach_on_a_linear_model(name):
    contract.check_linear_model(functools.partial(contract.short, name, steps=15, queries=100))


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_counts_its_gradients(name):
    contract.check_gradients_are_counted(contract.short(name, "linf", 0.02, steps=2, queries=5))


@dataclass(frozen=True)
class StatefulNoise(FGSM):
    """It draws from the global generator."""

    def perturb(self, predict, x, y, seed):
        noise = tf.random.uniform([2], maxval=1000, dtype=tf.int32)
        return random_start(x, self.norm, self.epsilon, noise)


@dataclass(frozen=True)
class FixedNoise(FGSM):
    """Its noise is the same for every seed."""

    def perturb(self, predict, x, y, seed):
        return random_start(x, self.norm, self.epsilon, tf.constant([1, 2]))


@dataclass(frozen=True)
class LeavesTheBall(FGSM):
    """It goes twice as far."""

    def perturb(self, predict, x, y, seed):
        x_adv = super().perturb(predict, x, y, seed)
        return tf.clip_by_value(x + 2 * (x_adv - x), 0.0, 1.0)


@dataclass(frozen=True)
class LeavesPixelRange(FGSM):
    """It does not clip."""

    def perturb(self, predict, x, y, seed):
        return x + self.epsilon / 100


@dataclass(frozen=True)
class TrainingMode(FGSM):
    """It calls the model in training mode."""

    def perturb(self, predict, x, y, seed):
        model = predict.__closure__[0].cell_contents
        return super().perturb(lambda images: model(images, training=True), x, y, seed)


@dataclass(frozen=True)
class DoesNothing(FGSM):
    """It returns the benign images."""

    def perturb(self, predict, x, y, seed):
        return x


@dataclass(frozen=True)
class FixedBatch(FGSM):
    """It returns at least one image."""

    def perturb(self, predict, x, y, seed):
        return tf.concat([x, tf.zeros([1, *x.shape[1:]])], 0)


@dataclass(frozen=True)
class CountsNothing(FGSM):
    """It reports that it used no gradient."""

    def follow_gradients(self, predict, x, y, seed):
        result = super().follow_gradients(predict, x, y, seed)
        return result._replace(gradients=tf.zeros_like(result.gradients))


@pytest.mark.parametrize(
    ("check", "wrong", "sentence"),
    [
        (contract.check_seed, StatefulNoise(), "ignores its seed"),
        (contract.check_seed, FixedNoise(), "is the same for all seeds"),
        (contract.check_ball, LeavesTheBall, "leaves the ball"),
        (contract.check_ball, LeavesPixelRange, r"leaves \[0, 1\]"),
        (contract.check_inference_mode, TrainingMode(), "changes the weights|training mode"),
        (contract.check_linear_model, DoesNothing, "misses samples within"),
        (contract.check_linear_model, LeavesTheBall, "breaks the unbreakable"),
        (contract.check_empty_batch, FixedBatch(), "for 0 images"),
        (contract.check_gradients_are_counted, DoesNothing(), "does not tell"),
        (contract.check_gradients_are_counted, CountsNothing(), "counts gradients wrongly"),
    ],
)
def test_a_wrong_attack_is_caught(check, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(wrong)
