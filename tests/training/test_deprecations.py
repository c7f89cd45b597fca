"""Deprecated names of arguments still work, with a warning that names the new ones."""

import pytest

import hydra_tf
from hydra_tf.training import train
from tests.training.loops import assert_same, make_model, phases, weights_of


def test_deprecated_arguments_of_train(batches_from, validation):
    old, new = make_model("natural"), make_model("natural")
    with pytest.warns(DeprecationWarning, match="is deprecated; use") as warnings:
        logs = train(
            old, batches_from, steps=2, pipeline=phases(1), validation=validation, verbose=0
        )
    messages = [str(w.message) for w in warnings if "hydra_tf" in str(w.message)]
    assert messages == [
        "hydra_tf.training.train(steps=...) is deprecated; use steps_per_epoch.",
        "hydra_tf.training.train(validation=...) is deprecated; use validation_data.",
    ]
    assert logs == train(new, batches_from, 2, phases(1), validation_data=validation, verbose=0)
    assert_same(weights_of(old), weights_of(new))


@pytest.mark.parametrize("value", [True, False])
def test_deprecated_argument_of_hydra_callback(value):
    with pytest.warns(DeprecationWarning, match="is deprecated; use restore_best_weights"):
        callback = hydra_tf.HydraCallback(0.5, 1, restore_best=value)
    assert callback.restore_best_weights is value
