"""Every registered channel rule, and wrong rules that the contract catches."""

import numpy as np
import pytest
from keras import layers

from hydra_tf.sparsity.channel_rules import registry
from tests.contracts.channel_rule_contract import check_channel_rule, targets


@pytest.mark.parametrize("target", targets(), ids=str)
def test_outputs_depend_on_the_channels_that_the_rule_names(target):
    check_channel_rule(target)


def reversed_channels(layer, shapes):
    return registry.PerChannel((np.arange(shapes[0][-1])[::-1],))


@pytest.mark.parametrize("rule", [reversed_channels, lambda layer, shapes: None])
def test_the_contract_catches_a_wrong_rule(rule):
    class Marker(layers.ReLU):
        pass

    registry.RULES[Marker] = rule
    try:
        with pytest.raises(AssertionError):
            check_channel_rule(Marker)
    finally:
        del registry.RULES[Marker]
