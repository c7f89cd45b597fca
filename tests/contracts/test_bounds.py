"""Every bound method on every registered layer rule, and wrong parts that the contract catches."""

from dataclasses import dataclass

import pytest
import tensorflow as tf
from keras import layers

from hydra_tf import bounds
from hydra_tf.bounds.ibp import IBP
from hydra_tf.bounds.rules import registry
from hydra_tf.bounds.rules.nodes import Affine
from hydra_tf.bounds.tightest import Tightest
from hydra_tf.core.types import Interval
from tests.contracts import bound_contract as contract

METHODS = bounds.BOUNDS.names()
SINGLE = [name for name in METHODS if not bounds.build(name).combines_others]
TARGETS = contract.targets()
RULES = {rule: target for target, rule in reversed(registry.RULES.items())}
# By default one method for one target of each rule; the slow tests have all of them.
SAMPLE = [(target, SINGLE[i % len(SINGLE)]) for i, target in enumerate(RULES.values())]
EVERY = [(target, method) for target in TARGETS for method in METHODS]


@pytest.fixture(autouse=True)
def without_tracing():
    """Compute eagerly, since tracing takes longer than one call on a small network."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize(("target", "method"), SAMPLE, ids=str)
def test_outputs_are_inside_the_bounds(target, method):
    contract.check_contains_outputs(method, contract.networks(target, last=True)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("target", "method"), EVERY, ids=str)
def test_every_method_on_every_rule(target, method):
    for net in contract.networks(target):
        for epsilon in (0.0, 0.02, 0.3):
            contract.check_contains_outputs(method, net, epsilon)
        contract.check_lower_not_above_upper(method, net)
        contract.check_exact_without_radius(method, net)
    for net in contract.networks(target, rectified=False):
        contract.check_contains_outputs(method, net)
        if contract.is_affine(net):
            contract.check_exact_on_affine_networks(method, net)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_order_of_methods_on_every_rule(target):
    for net in contract.networks(target):
        contract.check_tightest("tightest", SINGLE, net)
        contract.check_monotonic_intervals(net)


@pytest.mark.parametrize("method", METHODS)
def test_order_and_exactness_of_every_method(method):
    net = contract.networks("layers.Dense")[0]
    contract.check_lower_not_above_upper(method, net)
    contract.check_exact_without_radius(method, net)
    contract.check_tightest("tightest", [method], net)
    affine = contract.networks("layers.AveragePooling1D", rectified=False)[0]
    contract.check_exact_on_affine_networks(method, affine)


def test_interval_bounds_of_a_smaller_ball_are_inside():
    contract.check_monotonic_intervals(contract.networks("layers.MaxPooling1D")[0])


class ForgottenBias(layers.Dense):
    """Its rule forgets the bias."""


def forgotten_bias(layer, shapes):
    return [Affine(lambda x: x @ layer.kernel, lambda x: x @ abs(layer.kernel), terms=4, fan_out=4)]


class PaddedMean(layers.AveragePooling2D):
    """Its rule divides by the size of the window, though padding is left out of means."""

    def __init__(self):
        super().__init__(3, strides=1, padding="same")


def padded_mean(layer, shapes):
    def mean(x):
        pads = [(0, 0), (1, 1), (1, 1), (0, 0)]
        return tf.nn.avg_pool2d(tf.pad(x, pads), 3, 1, "VALID")

    return [Affine(mean, mean, terms=10, fan_out=18)]


class UnknownArguments(layers.Layer):
    """No network with it can be generated."""

    def __init__(self, unheard_of):
        super().__init__()


@pytest.fixture
def rule_table(monkeypatch):
    """A copy of the table, to which wrong rules are added."""
    monkeypatch.setattr(registry, "RULES", dict(registry.RULES))


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize(
    ("layer", "rule"), [(ForgottenBias, forgotten_bias), (PaddedMean, padded_mean)]
)
@pytest.mark.usefixtures("rule_table")
def test_an_unsound_rule_is_caught(layer, rule, method):
    bounds.register_rule(layer)(rule)
    net = contract.networks(layer)[0]
    with pytest.raises(AssertionError, match=f"(below the bound|outside the bounds) of {method}"):
        contract.check_contains_outputs(method, net)


@pytest.mark.usefixtures("rule_table")
def test_a_rule_without_a_network_is_named():
    bounds.register_rule(UnknownArguments)(forgotten_bias)
    assert UnknownArguments in contract.targets()
    with pytest.raises(AssertionError, match=r"No network .* rule .*UnknownArguments"):
        contract.networks(UnknownArguments)


@dataclass(frozen=True)
class HalfTheBall(IBP):
    """An unsound method: it shrinks the ball."""

    def __call__(self, graph, box, specifications):
        quarter = (box.upper - box.lower) / 4
        return super().__call__(
            graph, Interval(box.lower + quarter, box.upper - quarter), specifications
        )


@dataclass(frozen=True)
class TwiceTheBall(IBP):
    """A sound method that is needlessly loose: it bounds a larger ball."""

    def __call__(self, graph, box, specifications):
        half = (box.upper - box.lower) / 2
        return super().__call__(graph, Interval(box.lower - half, box.upper + half), specifications)


@dataclass(frozen=True)
class Loosest(Tightest):
    """A combination that takes the smallest bound."""

    def __call__(self, graph, box, specifications):
        lower = [bounds.build(name)(graph, box, specifications) for name in SINGLE]
        return tf.reduce_min(tf.stack(lower), axis=0)


def test_an_unsound_method_is_caught():
    net = contract.networks("layers.Dense", rectified=False)[0]
    contract.check_contains_outputs(IBP(), net)
    with pytest.raises(AssertionError, match=r"a margin is .* below the bound of HalfTheBall"):
        contract.check_contains_outputs(HalfTheBall(), net)


def test_a_method_that_is_not_exact_on_affine_networks_is_caught():
    net = contract.networks("layers.Dense", rectified=False)[0]
    assert contract.is_affine(net)
    contract.check_contains_outputs(TwiceTheBall(), net)
    with pytest.raises(AssertionError, match=r"TwiceTheBall.* is off by"):
        contract.check_exact_on_affine_networks(TwiceTheBall(), net)


def test_a_combination_that_is_not_the_tightest_is_caught():
    net = contract.networks("layers.Conv2D")[0]
    with pytest.raises(AssertionError, match=r"Loosest.* below"):
        contract.check_tightest(Loosest(), SINGLE, net)
