"""Training with every granularity: resuming, replicas, and the pipeline."""

import contextlib

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.sparsity import GRANULARITIES
from hydra_tf.sparsity.model import masked_layers
from hydra_tf.training import Checkpoints, LoopOptions, train
from tests.contracts.sparsity_contract import density_of, residual_network
from tests.training.loops import (
    STEPS,
    FaultAfter,
    StopError,
    assert_same,
    make_model,
    phases,
    weights_of,
)

NAMES = [name for name in GRANULARITIES.names() if name != "layer"]
CASES = [(name, "sequential") for name in NAMES] + [
    (name, "residual") for name in NAMES if GRANULARITIES.build(name).channel_axes
]


def model_of(kind, strategy=None):
    if kind == "sequential":
        return make_model("natural", strategy)
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = hydra_tf.RobustModel(residual_network((8, 8, 1), 10), "natural", seed=5)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])
    return model


def trained(name, kind, batches_from, *callbacks, strategy=None, **options):
    model = model_of(kind, strategy)
    # The logits of the residual network are whole, which is half of its weights.
    density = 0.7 if kind == "residual" else density_of(GRANULARITIES.build(name))
    pipeline = phases(1, 2, 1, density=density, granularity=name)
    train(model, batches_from, STEPS, pipeline, verbose=0, callbacks=callbacks, **options)
    return model


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_resumed_runs_have_the_same_bits(name, kind, batches_from, tmp_path):
    def run(*callbacks):
        options = LoopOptions(checkpoint_seconds=0.0)
        folder = Checkpoints(tmp_path / name)
        return trained(name, kind, batches_from, *callbacks, checkpoints=folder, options=options)

    whole = trained(name, kind, batches_from)
    with pytest.raises(StopError):
        run(FaultAfter(2 * STEPS + 2))
    assert_same(weights_of(run()), weights_of(whole))
    masks = [np.asarray(layer.mask) for layer in masked_layers(whole)]
    assert any(not mask.all() for mask in masks)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_two_replicas_choose_the_masks_of_one_device(name, kind, batches_from, two_replicas):
    alone = trained(name, kind, batches_from)
    shared = trained(name, kind, batches_from, strategy=two_replicas)
    for layer, twin in zip(masked_layers(alone), masked_layers(shared), strict=True):
        one, other = (np.asarray(value) for value in twin.mask.value.values)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, np.asarray(layer.mask))
    assert_same(weights_of(shared), weights_of(alone), atol=2e-4)


def test_a_schedule_of_densities_contradicts_a_fixed_one(batches_from):
    pipeline = phases(0, 2, 1, density=0.5, granularity="n_m", density_schedule="linear")
    with pytest.raises(ValueError, match=r"has the density 0\.5, not .*, without a schedule"):
        train(make_model("natural"), batches_from, STEPS, pipeline, verbose=0)
