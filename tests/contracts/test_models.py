"""Every network of the zoo, and wrong ones that the contract catches."""

from dataclasses import dataclass

import keras
import pytest

from hydra_tf import models
from hydra_tf.models.zoo.cnn_small import CNNSmall
from tests.contracts import model_contract as contract

SPECS = {"wide_resnet": "wide_resnet:depth=10,width=1"}
NETWORKS = {name: models.MODELS.build(SPECS.get(name, name)) for name in models.MODELS.names()}
# Slow tests: all but the first network of a family, and deep networks.
FIRST = {type(network): name for name, network in reversed(NETWORKS.items())}.values()
DEEP = {"resnet18", "vgg11_bn"}
NAMES = [
    pytest.param(name, marks=() if name in FIRST and name not in DEEP else pytest.mark.slow)
    for name in NETWORKS
]


@pytest.mark.parametrize("name", NAMES)
def test_every_network(name, tmp_path):
    network = NETWORKS[name]
    contract.check_logits(network)
    contract.check_seed(network)
    contract.check_masks_and_saves(network, tmp_path / "masked.keras")
    contract.check_refuses_small_images(network)


@dataclass(frozen=True)
class EndsInASoftmax(CNNSmall):
    """It outputs probabilities."""

    def connect(self, wire, x, num_classes):
        return keras.layers.Softmax()(super().connect(wire, x, num_classes))


@dataclass(frozen=True)
class IgnoresItsSeed(CNNSmall):
    """Its weights come from the global generator."""

    def __call__(self, input_shape, num_classes, seed=None):
        return super().__call__(input_shape, num_classes, None)


@dataclass(frozen=True)
class OneSeed(CNNSmall):
    """Its weights are the same for all seeds."""

    def __call__(self, input_shape, num_classes, seed=None):
        return super().__call__(input_shape, num_classes, 0)


@dataclass(frozen=True)
class AcceptsAnySize(CNNSmall):
    """It has no sentence for images that are too small."""

    def __call__(self, input_shape, num_classes, seed=None):
        x = keras.Input(input_shape)
        return keras.Model(x, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("check", "wrong", "sentence"),
    [
        (contract.check_logits, EndsInASoftmax(), "does not output logits"),
        (contract.check_seed, IgnoresItsSeed(), "ignores its seed"),
        (contract.check_seed, OneSeed(), "is the same for all seeds"),
        (contract.check_refuses_small_images, AcceptsAnySize(), "no sentence for small images"),
    ],
)
def test_a_wrong_network_is_caught(check, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(wrong)
