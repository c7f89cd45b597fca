"""Every registered part of pruning, and wrong ones that the contracts catch."""

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.sparsity import (
    ALLOCATIONS,
    DENSITY_SCHEDULES,
    GRANULARITIES,
    METHODS,
    SCORE_INITS,
)
from hydra_tf.sparsity.allocation import Uniform
from hydra_tf.sparsity.density_schedules import DensitySchedule
from hydra_tf.sparsity.granularities.block import Block
from hydra_tf.sparsity.granularities.element import Element
from hydra_tf.sparsity.granularities.filter import Filter
from hydra_tf.sparsity.granularities.kernel import Kernel
from hydra_tf.sparsity.methods import PruningMethod, plan_of
from hydra_tf.sparsity.score_init import Magnitude, Snip
from hydra_tf.sparsity.topk import count_kept
from tests.contracts import sparsity_contract as contract


@pytest.mark.parametrize("name", SCORE_INITS.names())
def test_every_score_initialisation(name):
    contract.check_score_init(SCORE_INITS.build(name))


@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_every_allocation(name):
    contract.check_allocation(ALLOCATIONS.build(name))


@pytest.mark.parametrize("name", GRANULARITIES.names())
def test_every_granularity(name):
    contract.check_granularity(GRANULARITIES.build(name))


@pytest.mark.parametrize(
    "name",
    [
        name if name == "filter" else pytest.param(name, marks=pytest.mark.slow(seconds=10))
        for name in GRANULARITIES.names()
    ],
)
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_every_granularity_refreshes_a_residual_network(name, allocation, two_replicas, tmp_path):
    granularity = GRANULARITIES.build(name)
    if allocation == "uniform" or not granularity.fixes_density:
        contract.check_refresh(granularity, two_replicas, tmp_path, allocation)


@pytest.mark.parametrize("name", DENSITY_SCHEDULES.names())
def test_every_density_schedule(name):
    contract.check_density_schedule(DENSITY_SCHEDULES.build(name))


class Halved(DensitySchedule):
    """Ends too early."""

    def __call__(self, step, steps, density):
        return 0.5 + density / 2


class Below(DensitySchedule):
    """Leaves (0, 1]."""

    def __call__(self, step, steps, density):
        return density if step + 1 == steps else density - 0.01


class Growing(DensitySchedule):
    """Prunes too much at first."""

    def __call__(self, step, steps, density):
        return density * (step + 1) / steps


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [(Halved(), "ends at"), (Below(), "has a density of -"), (Growing(), "grows from")],
)
def test_wrong_density_schedules_are_caught(schedule, sentence):
    with pytest.raises(AssertionError, match=sentence):
        contract.check_density_schedule(schedule)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_with_every_score_initialisation(name):
    contract.check_method(METHODS.build(name))
    for score_init in SCORE_INITS.names():
        method = METHODS.build(f"{name}:score_init={score_init}")
        assert method.score_init == score_init
        contract.check_method(method)


def test_a_method_with_an_unknown_score_initialisation_is_refused():
    known = ", ".join(SCORE_INITS.names())
    for build in (METHODS.build, lambda spec: plan_of(spec, 1, 1, 1)):
        with pytest.raises(ValueError, match=f'"magnitud"; did you mean "magnitude".* {known}'):
            build("hydra:score_init=magnitud")
    with pytest.raises(ValueError, match='Unknown pruning method "hydr"; did you mean "hydra"'):
        plan_of("hydr", 1, 1, 1)


@dataclass(frozen=True)
class StatefulScores:
    """Its scores come from the global generator."""

    def __call__(self, kernel, *, fan_in, gradient=None, seed=0):
        return tf.random.normal(kernel.shape)


@dataclass(frozen=True)
class FixedScores:
    """Its scores are random, but the same for every seed."""

    def __call__(self, kernel, *, fan_in, gradient=None, seed=0):
        return tf.random.stateless_normal(kernel.shape, [0, 0])


@dataclass(frozen=True)
class Relative(Magnitude):
    """A kernel of zeros has undefined scores."""

    def __call__(self, kernel, *, fan_in, gradient=None, seed=0):
        return kernel / tf.reduce_max(tf.abs(kernel))


@dataclass(frozen=True)
class FlatScores(Magnitude):
    """Its scores lose the shape of the kernel."""

    def __call__(self, kernel, *, fan_in, gradient=None, seed=0):
        return tf.reshape(kernel, [-1])


@dataclass(frozen=True)
class UndeclaredGradient(Snip):
    """It uses the gradient without declaring it."""

    needs_gradient = False


@dataclass(frozen=True)
class TwiceTheBudget(Uniform):
    """It keeps twice as many weights."""

    def __call__(self, scores, density):
        return dict.fromkeys(scores, min(1.0, 2 * density))


@dataclass(frozen=True)
class EmptiesALayer(Uniform):
    """It keeps nothing of one layer."""

    def __call__(self, scores, density):
        return {**super().__call__(scores, density), "b": 0.0}


@dataclass(frozen=True)
class FirstLayersFirst(Uniform):
    """It spends the budget in the order of the layers."""

    def __call__(self, scores, density):
        rest = round(density * sum(values.size for values in scores.values()))
        shares = {}
        for name, values in scores.items():
            kept = max(1, min(rest, values.size))
            shares[name] = kept / values.size
            rest -= kept
        return shares


@dataclass(frozen=True)
class TiesByPosition(Uniform):
    """Ties go to the first layer, as in a stable sort without regard to names."""

    def __call__(self, scores, density):
        magnitudes = np.concatenate([np.abs(values).ravel() for values in scores.values()])
        layer = np.repeat(np.arange(len(scores)), [values.size for values in scores.values()])
        count = max(1, round(density * magnitudes.size))
        kept = layer[np.argsort(-magnitudes, kind="stable")[:count]]
        return {
            name: max(1, int((kept == i).sum())) / values.size
            for i, (name, values) in enumerate(scores.items())
        }


@dataclass(frozen=True)
class OneTooMany(Element):
    """It keeps one weight more."""

    def __call__(self, scores, kept, axes=""):
        mask = super().__call__(scores, kept, axes)
        first = tf.equal(
            tf.range(tf.size(mask)),
            tf.argmin(tf.cast(tf.reshape(mask, [-1]), tf.int32), output_type=tf.int32),
        )
        return mask | tf.reshape(first, mask.shape)


@dataclass(frozen=True)
class FloatMask(Element):
    """Its masks are numbers."""

    def __call__(self, scores, kept, axes=""):
        return tf.cast(super().__call__(scores, kept, axes), tf.float32)


@dataclass(frozen=True)
class PartialBlocks(Block):
    """Its blocks do not divide the kernel."""

    def window(self, shape, axes):
        return (self.size,) + (1,) * (len(shape) - 1)


@dataclass(frozen=True)
class SmallestFirst(Filter):
    """It keeps the groups of the smallest scores."""

    def group_scores(self, scores, axes):
        return 1 / super().group_scores(scores, axes)


@dataclass(frozen=True)
class LooseWeights(Filter):
    """It keeps as many weights, but not those of whole groups."""

    def __call__(self, scores, kept, axes=""):
        whole = super().__call__(scores, kept, axes)
        return Element()(scores, count_kept(whole))


@dataclass(frozen=True)
class RoundsUp(Filter):
    """It exceeds the budget."""

    def __call__(self, scores, kept, axes=""):
        unit = self.unit(scores.shape, axes)
        return super().__call__(scores, -(-kept // unit) * unit, axes)


@dataclass(frozen=True)
class LooseChannels(Kernel):
    """Its groups are parts of channels."""

    channel_axes = "oc"


@dataclass(frozen=True)
class UncheckedMethod(PruningMethod):
    """It does not check its score initialisation."""

    score_init: str = "unheard_of"

    def __post_init__(self):
        pass


@pytest.mark.parametrize(
    ("check", "wrong", "sentence"),
    [
        (contract.check_score_init, StatefulScores(), "ignores its seed"),
        (contract.check_score_init, FixedScores(), "is the same for all seeds"),
        (contract.check_score_init, Relative(), "not finite"),
        (contract.check_score_init, FlatScores(), "scores of shape"),
        (contract.check_allocation, TwiceTheBudget(), "has a budget of"),
        (contract.check_allocation, EmptiesALayer(), r"must lie in \(0, 1\]"),
        (contract.check_allocation, FirstLayersFirst(), "depends on the order of the layers"),
        (contract.check_allocation, TiesByPosition(), "depends on the order of the layers"),
        (contract.check_granularity, OneTooMany(), "keeps 2 weights, not 1"),
        (contract.check_granularity, PartialBlocks(), r"has groups of \(4, 1"),
        (contract.check_granularity, SmallestFirst(), "prunes better groups"),
        (contract.check_granularity, LooseWeights(), "keeps parts of groups"),
        (contract.check_granularity, RoundsUp(), r"keeps \d+ weights, not"),
        (contract.check_granularity, LooseChannels(), "no channels of a kernel"),
        (contract.check_granularity, FloatMask(), "masks of float32"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "__dataclass_fields__") else "",
)
def test_a_wrong_part_is_caught(check, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(wrong)


def test_a_gradient_that_is_not_declared_is_caught():
    with pytest.raises(ValueError, match="needs the gradient"):
        contract.check_score_init(UndeclaredGradient())


def test_a_method_that_cannot_initialise_scores_is_caught(monkeypatch):
    monkeypatch.setattr(METHODS, "_parts", {**METHODS._parts, "unchecked": (UncheckedMethod, {})})
    with pytest.raises(AssertionError, match="cannot initialise its scores"):
        contract.check_method(METHODS.build("unchecked"))
