"""A small network and a schedule for the tests of TFMOT's pruning."""

import keras
import numpy as np

from hydra_tf.interop import tfmot

X = np.random.default_rng(0).random((32, 6)).astype("float32")
TARGETS = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")


def small(name="dense", units=4):
    return keras.Sequential([keras.Input([6]), keras.layers.Dense(units, name=name)])


def fitted(model, epochs, callbacks=None, initial_epoch=0):
    """Train on the same data in every epoch."""
    callbacks = [tfmot.UpdatePruningStep()] if callbacks is None else callbacks
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "initial_epoch": initial_epoch}
    return model.fit(X, TARGETS, epochs=epochs, callbacks=callbacks, **options)


@keras.saving.register_keras_serializable("tests")
class EveryOther:
    """A schedule of a user's own."""

    def __init__(self, sparsity):
        self.sparsity = sparsity

    def __call__(self, step):
        return step % 2 == 0, self.sparsity

    def get_config(self):
        return {"sparsity": self.sparsity}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
