"""Graphs are cached until the model changes in a way that they depend on."""

import keras
import numpy as np
import pytest
from keras import layers

from hydra_tf.core.graphs import Graphs


class Outer(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.factor = layers.Dense(2), np.ones(3)

    def call(self, x):
        return self.inner(x)


@pytest.fixture
def net():
    inner = keras.Sequential([keras.Input([2]), layers.Dense(2, name="first")])
    return keras.Sequential([keras.Input([2]), inner, Outer(name="outer"), layers.ReLU()])


def was_cached(graphs, net):
    """Return whether the graph of the model is cached; trace and cache it if not."""
    traced = []
    graphs.get(net, "key", lambda model: traced.append(model) or "graph")
    return not traced


def test_graphs_are_cached_per_key_and_model(net):
    graphs = Graphs()
    assert graphs.get(net, 1, lambda model: model() is net) is True
    assert graphs.get(net, 2, lambda model: "two") == "two"
    assert graphs.get(net, 1, lambda model: "another") is True
    assert graphs.get(lambda x: x, 1, lambda model: "of a function") == "of a function"


def test_training_and_calls_keep_the_graph(net):
    graphs = Graphs()
    assert not was_cached(graphs, net)
    x = np.zeros((4, 2))
    net.compile("sgd", "mse")
    net.fit(x, x, verbose=0)
    net.predict(x, verbose=0)
    net.set_weights([weight + 1 for weight in net.get_weights()])
    net.layers[-1].trainable = False
    assert was_cached(graphs, net)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net.layers[0].layers[0], "activation", keras.activations.relu),
        lambda net: setattr(net.layers[1].inner, "activation", lambda x: 2 * x),
        lambda net: net.layers[1].factor.fill(2.0),
        lambda net: setattr(net.layers[2], "negative_slope", 0.5),
        lambda net: setattr(net.layers[2], "dtype_policy", "mixed_bfloat16"),
        lambda net: net.layers[0].layers[0].enable_lora(1),
        lambda net: net.pop(),
    ],
)
def test_changed_models_are_retraced(net, change):
    graphs = Graphs()
    assert not was_cached(graphs, net)
    change(net)
    assert not was_cached(graphs, net)
    assert was_cached(graphs, net)
