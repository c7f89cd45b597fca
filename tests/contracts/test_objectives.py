"""Every registered objective, and wrong ones that the contract catches."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import tensorflow as tf

from hydra_tf.attacks.losses import cross_entropy
from hydra_tf.core.types import LossTerms
from hydra_tf.objectives import OBJECTIVES
from hydra_tf.objectives.base import Adversarial, Objective
from hydra_tf.objectives.natural import Natural
from hydra_tf.objectives.pgd import PGDTraining
from tests.contracts import objective_contract as contract

VARIANTS = contract.variants()
IDS = [contract.describe(spec) for spec in VARIANTS]
NAMES = [spec for spec in VARIANTS if contract.describe(spec) == spec["name"]]
# Other choices of parameters are slow tests, but for the cheap check of the ball.
SPECS = [
    pytest.param(spec, id=name, marks=() if name == spec["name"] else pytest.mark.slow)
    for spec, name in zip(VARIANTS, IDS, strict=True)
]
every_variant = pytest.mark.parametrize("spec", SPECS)
every_name = pytest.mark.parametrize("spec", NAMES, ids=contract.describe)


@pytest.fixture(autouse=True)
def without_tracing(request):
    """Compute eagerly, since tracing takes longer than one call on a small network."""
    tf.config.run_functions_eagerly("two_replicas" not in request.fixturenames)
    yield
    tf.config.run_functions_eagerly(False)


def test_every_name_has_a_variant():
    assert [spec["name"] for spec in NAMES] == list(OBJECTIVES.names())


@pytest.mark.parametrize("spec", VARIANTS, ids=IDS)
def test_images_are_in_the_declared_ball(spec):
    objective = OBJECTIVES.build(spec)
    declared = contract.check_images_in_ball(objective)
    assert declared == (contract.declared_ball(objective) is not None)


@every_variant
def test_random_numbers_depend_on_the_seed_only(spec):
    contract.check_random_numbers(OBJECTIVES.build(spec))


@every_variant
def test_loss_and_gradients_are_finite(spec):
    contract.check_finite(OBJECTIVES.build(spec))


@every_variant
def test_microbatches_have_the_gradients_of_the_batch(spec):
    contract.check_microbatches(OBJECTIVES.build(spec))


@pytest.mark.slow
@every_variant
def test_replicas_have_the_gradients_of_the_batch(spec, two_replicas):
    contract.check_replicas(OBJECTIVES.build(spec), two_replicas)


@every_variant
def test_ramps_reach_their_end(spec):
    objective = OBJECTIVES.build(spec)
    assert contract.check_ramp_ends(objective) == ("ramp" in OBJECTIVES.parameters(spec["name"]))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@every_name
def test_mixed_precision_works_or_is_refused(spec, policy):
    contract.check_mixed_precision(OBJECTIVES.build(spec), policy)


@every_variant
def test_declarations_have_a_known_form(spec):
    contract.check_declarations(OBJECTIVES.build(spec))


def adversarial_loss(model, x, x_adv, y):
    logits = model(x_adv, training=True)
    return LossTerms(tf.reduce_mean(cross_entropy(y, logits)), model(x, training=False), logits)


@dataclass(frozen=True)
class LeavesBall(PGDTraining):
    """It doubles the perturbation."""

    def adversarial_images(self, predict, x, loss, context):
        x_adv = super().adversarial_images(predict, x, loss, context)
        return tf.clip_by_value(2 * x_adv - x, 0.0, 1.0)


@dataclass(frozen=True)
class LeavesPixelRange(PGDTraining):
    """It does not clip pixel values."""

    def adversarial_images(self, predict, x, loss, context):
        return x + self.epsilon


@dataclass(frozen=True)
class StatefulNoise(Adversarial):
    """Its start comes from the global generator."""

    def __call__(self, model, x, y, context):
        noise = tf.clip_by_value(tf.random.normal(tf.shape(x)), -self.epsilon, self.epsilon)
        return adversarial_loss(model, x, tf.clip_by_value(x + noise, 0.0, 1.0), y)


@dataclass(frozen=True)
class UnusedStatefulNoise(Natural):
    """It draws stateful noise that happens to have no effect."""

    def __call__(self, model, x, y, context):
        return super().__call__(model, x + 0.0 * tf.random.uniform(tf.shape(x)), y, context)


@dataclass(frozen=True)
class IgnoresSeed(Adversarial):
    """Its stateless noise has a constant seed."""

    def __call__(self, model, x, y, context):
        noise = tf.random.stateless_uniform(tf.shape(x), [0, 0], -self.epsilon, self.epsilon)
        return adversarial_loss(model, x, tf.clip_by_value(x + noise, 0.0, 1.0), y)


@dataclass(frozen=True)
class NeverFull(PGDTraining):
    """Its ramp ends at half the epsilon."""

    def __call__(self, model, x, y, context):
        epsilon = self.epsilon * (0.5 if self.ramp else 1.0)
        x_adv = tf.clip_by_value(x + epsilon, 0.0, 1.0)
        return adversarial_loss(model, x, x_adv, y)


@dataclass(frozen=True)
class LogOfProbability(Objective):
    """Its loss is infinite where a probability is rounded to 0."""

    def __call__(self, model, x, y, context):
        logits = model(x, training=True)
        right = tf.gather(tf.nn.softmax(logits), y, batch_dims=1)
        return LossTerms(-tf.reduce_mean(tf.math.log(right)), logits)


@dataclass(frozen=True)
class SumOfLosses(Natural):
    """Its loss is not a mean."""

    def __call__(self, model, x, y, context):
        logits = model(x, training=True)
        return LossTerms(tf.reduce_sum(cross_entropy(y, logits)), logits)


@dataclass(frozen=True)
class HalfLoss(Natural):
    """Its loss has the precision of the logits."""

    def __call__(self, model, x, y, context):
        logits = model(x, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        return LossTerms(tf.reduce_mean(losses), logits)


@dataclass(frozen=True)
class RefusesBriefly(Natural):
    """Its error is not a sentence."""

    def __call__(self, model, x, y, context):
        raise ValueError("bad dtype")


@dataclass(frozen=True)
class UnknownCertificate(Natural):
    """Its certificate lacks the method."""

    certified: ClassVar[dict] = {"measure": "vra_t", "epsilon": 0.1}

    def certificate(self):
        return self.certified


def half_precision(objective):
    contract.check_mixed_precision(objective, "mixed_float16")


@pytest.mark.parametrize(
    ("wrong", "check", "sentence"),
    [
        (LeavesBall(epsilon=0.2), contract.check_images_in_ball, "outside its linf ball"),
        (LeavesBall("l2", 0.2), contract.check_images_in_ball, "outside its l2 ball"),
        (LeavesPixelRange(epsilon=0.2), contract.check_images_in_ball, r"outside \[0, 1\]"),
        (StatefulNoise(), contract.check_random_numbers, "different results for the same seed"),
        (UnusedStatefulNoise(), contract.check_random_numbers, "stateful random numbers"),
        (IgnoresSeed(), contract.check_random_numbers, "ignores the seed"),
        (NeverFull(), contract.check_ramp_ends, "does not reach its full epsilon"),
        (LogOfProbability(), contract.check_finite, "not finite"),
        (SumOfLosses(), contract.check_microbatches, "differs from the whole batch"),
        (HalfLoss(), half_precision, "a loss of float16"),
        (RefusesBriefly(), half_precision, "without a sentence"),
        (UnknownCertificate(), contract.check_declarations, "the certificate of"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else "",
)
def test_a_wrong_objective_is_caught(wrong, check, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(wrong)


@pytest.mark.slow
def test_an_objective_that_is_wrong_on_replicas_is_caught(two_replicas):
    with pytest.raises(AssertionError, match=r"on replicas of .* differs from the whole batch"):
        contract.check_replicas(SumOfLosses(), two_replicas)
