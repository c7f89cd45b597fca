"""Undocumented attributes of Keras that the library reads."""

import keras
import numpy as np
import pytest

from hydra_tf.core.keras_private import (
    CALLBACK_STATE,
    arguments_of_calls,
    trainable_unless_frozen,
)


@pytest.mark.parametrize("kind", CALLBACK_STATE)
def test_callbacks_have_the_state_attributes(kind, tmp_path):
    arguments = {"ModelCheckpoint": [str(tmp_path / "{epoch}.keras")]}.get(kind, [])
    callback = getattr(keras.callbacks, kind)(*arguments, monitor="loss")
    net = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    net.fit(np.zeros((4, 1)), np.zeros(4), epochs=1, callbacks=[callback], verbose=0)
    missing = [name for name in CALLBACK_STATE[kind] if not hasattr(callback, name)]
    assert not missing, (
        f"Keras {keras.__version__}: {kind} has no {missing}; a resumed run would lose this state."
    )


def test_names_of_compiled_metrics():
    net = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    net.compile("sgd", "mse", metrics=["accuracy"])
    names = [metric.name for metric in net.metrics]
    assert {"loss", "compile_metrics"} <= set(names), (
        f"Keras {keras.__version__}: the metrics are called {names}; RobustModel finds the "
        "tracker of the loss and the compiled metrics by name."
    )
    assert not net.metrics[names.index("compile_metrics")].built


def test_weights_of_a_frozen_layer_that_were_created_as_trainable():
    layer = keras.layers.BatchNormalization(trainable=False)
    layer.build([None, 3])
    assert [weight.name for weight in trainable_unless_frozen(layer)] == ["gamma", "beta"]


def test_arguments_of_the_calls_of_a_graph():
    images, variable = keras.Input([2]), keras.Variable(np.ones((2, 2), "float32"))
    net = keras.Model(images, keras.ops.matmul(images, variable))
    arguments = keras.tree.flatten(arguments_of_calls(net.operations[-1]))
    assert any(argument is variable for argument in arguments)
