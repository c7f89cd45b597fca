"""Training with every granularity: resuming, replicas, and the pipeline."""

import numpy as np
import pytest

from hydra_tf.sparsity import GRANULARITIES
from hydra_tf.sparsity.model import masked_layers
from hydra_tf.training import Checkpoints, LoopOptions, train
from tests.contracts.sparsity_contract import density_of
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


def trained(name, batches_from, *callbacks, model=None, **options):
    model = model or make_model("natural")
    density = density_of(GRANULARITIES.build(name))
    pipeline = phases(1, 2, 1, density=density, granularity=name)
    train(model, batches_from, STEPS, pipeline, verbose=0, callbacks=callbacks, **options)
    return model


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("name", NAMES)
def test_resumed_runs_have_the_same_bits(name, batches_from, tmp_path):
    def run(*callbacks):
        options = LoopOptions(checkpoint_seconds=0.0)
        folder = Checkpoints(tmp_path / name)
        return trained(name, batches_from, *callbacks, checkpoints=folder, options=options)

    whole = trained(name, batches_from)
    with pytest.raises(StopError):
        run(FaultAfter(2 * STEPS + 2))
    assert_same(weights_of(run()), weights_of(whole))
    masks = [np.asarray(layer.mask) for layer in masked_layers(whole)]
    assert any(not mask.all() for mask in masks)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("name", NAMES)
def test_two_replicas_choose_the_masks_of_one_device(name, batches_from, two_replicas):
    alone = trained(name, batches_from)
    shared = trained(name, batches_from, model=make_model("natural", two_replicas))
    for layer, twin in zip(masked_layers(alone), masked_layers(shared), strict=True):
        one, other = (np.asarray(value) for value in twin.mask.value.values)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, np.asarray(layer.mask))
    assert_same(weights_of(shared), weights_of(alone), atol=2e-4)


def test_a_schedule_of_densities_contradicts_a_fixed_one(batches_from):
    pipeline = phases(0, 2, 1, density=0.5, granularity="n_m", density_schedule="linear")
    with pytest.raises(ValueError, match=r"has the density 0\.5, not .*, without a schedule"):
        train(make_model("natural"), batches_from, STEPS, pipeline, verbose=0)
