"""A small network and helpers for the tests of the training loop."""

import contextlib

import keras
import numpy as np

import hydra_tf

TRADES = "trades:epsilon=0.1,steps=2,step_size=0.05,start=uniform"
STEPS = 5  # of 32, 32, 32, 32 and 22 images


def small_net(norm=False):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
        *([keras.layers.BatchNormalization()] if norm else []),
        keras.layers.Flatten(),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(10),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def make_model(objective=TRADES, strategy=None, norm=False):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = hydra_tf.RobustModel(small_net(norm), objective, seed=5)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])
    return model


def phases(*epochs, density=0.3, allocation="uniform", **options):
    return hydra_tf.HydraCallback(density, *epochs, allocation=allocation, **options)


def weights_of(model):
    return {v.path + str(i): np.array(v) for i, v in enumerate(model.net.variables)}


def assert_same(actual, expected, atol=0.0):
    assert actual.keys() == expected.keys() or len(actual) == len(expected)
    for array, other in zip(actual.values(), expected.values(), strict=True):
        if array.dtype == bool or not atol:
            np.testing.assert_array_equal(array, other)
        else:
            np.testing.assert_allclose(array, other, atol=atol)


class StopError(Exception):
    pass


class FaultAfter(keras.callbacks.Callback):
    """Raises after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps_left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps_left -= 1
        if self.steps_left == 0:
            raise StopError
