"""Training in which groups of all layers compete: resumed, and on two replicas."""

import keras
import pytest

from hydra_tf.sparsity import masked_layers
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


@pytest.mark.slow(seconds=20)
def test_a_resumed_run_and_two_replicas_choose_the_same_masks(tmp_path, batches_from, two_replicas):
    def trained(folder, strategy=None, *callbacks):
        model, counts = make_model("natural", strategy), []
        plan = phases(
            1, 2, 1, density=0.6, allocation="global", granularity="channel",
            learning_rate={"prune": 30.0}, schedule="constant", warmup=0.0,
        )  # fmt: skip

        class Counts(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                counts.append([int(layer.kept()) for layer in masked_layers(model)])

        train(
            model, batches_from, STEPS, plan, callbacks=[Counts(), *callbacks], verbose=0,
            checkpoints=Checkpoints(str(folder)), options=LoopOptions(checkpoint_seconds=0.0),
        )  # fmt: skip
        return weights_of(model), counts

    whole, counts = trained(tmp_path / "whole")
    pruned = counts[STEPS : 3 * STEPS]
    assert len({tuple(row) for row in pruned}) > 1  # the ranking moves channels
    assert len({sum(row) for row in pruned}) > 1  # 340 of 463, then 454
    with pytest.raises(StopError):
        trained(tmp_path / "cut", None, FaultAfter(STEPS + 2))
    resumed, rest = trained(tmp_path / "cut")
    assert 2 * STEPS < len(rest) < 3 * STEPS  # some steps of the prune phase
    assert rest == counts[-len(rest) :]
    assert_same(resumed, whole)
    replicas, others = trained(tmp_path / "replicas", two_replicas)
    assert others == counts
    assert_same(replicas, whole, atol=2e-4)
