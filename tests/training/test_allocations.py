"""Training with every allocation: resuming, and replicas."""

import numpy as np
import pytest

from hydra_tf.sparsity import ALLOCATIONS
from hydra_tf.sparsity.model import masked_layers
from hydra_tf.sparsity.topk import kept_count
from hydra_tf.training import Checkpoints, LoopOptions, train
from tests.training.loops import (
    STEPS,
    FaultAfter,
    StopError,
    assert_same,
    make_model,
    phases,
    weights_of,
)

NAMES = [name for name in ALLOCATIONS.names() if name != "largest"]  # a deprecated name
DENSITY = 0.5  # at which every allocation can meet the budget


def trained(name, batches_from, *callbacks, model=None, **options):
    model = model or make_model("natural")
    pipeline = phases(1, 2, 1, density=DENSITY, allocation=name)
    train(model, batches_from, STEPS, pipeline, verbose=0, callbacks=callbacks, **options)
    return model


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("name", NAMES)
def test_resumed_runs_have_the_same_bits(name, batches_from, tmp_path):
    def run(*callbacks):
        options = LoopOptions(checkpoint_seconds=0.0)
        folder = Checkpoints(str(tmp_path / name))
        return trained(name, batches_from, *callbacks, checkpoints=folder, options=options)

    whole = trained(name, batches_from)
    with pytest.raises(StopError):
        run(FaultAfter(2 * STEPS + 2))
    assert_same(weights_of(run()), weights_of(whole))
    masks = [np.asarray(layer.mask) for layer in masked_layers(whole)]
    assert sum(int(mask.sum()) for mask in masks) == kept_count(DENSITY, 772)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("name", NAMES)
def test_two_replicas_choose_the_masks_of_one_device(name, batches_from, two_replicas):
    alone = trained(name, batches_from)
    shared = trained(name, batches_from, model=make_model("natural", two_replicas))
    for layer, twin in zip(masked_layers(alone), masked_layers(shared), strict=True):
        one, other = (np.asarray(value) for value in twin.mask.value.values)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, np.asarray(layer.mask))
