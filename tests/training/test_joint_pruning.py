"""Joint pruning: the prune phase trains the weights too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.sparsity import masked_layers, topk_mask
from hydra_tf.sparsity.methods import plan_of
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

CUBIC = "cubic:end=0.8,updates=4"


def joint(*epochs, method="hydra", schedule=CUBIC, **options):
    return phases(*epochs, method=f"{method}:joint=true", density_schedule=schedule, **options)


class Recorder(keras.callbacks.Callback):
    """Records kernels, scores and masks after each step of the prune phase."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        if self.model.phase.name == "prune":
            layers = masked_layers(self.model)
            self.rows.append([[np.array(v) for v in (m.kernel, m.scores, m.mask)] for m in layers])


@pytest.mark.parametrize("method", ["lwm", "random", "snip", "hydra"])
def test_every_method_has_a_prune_phase_if_it_is_joint(method):
    assert plan_of(f"{method}:joint=true", 3, 2, 1) == {"pretrain": 3, "prune": 2, "finetune": 1}
    assert ("prune" in plan_of(method, 3, 2, 1)) == (method == "hydra")
    with pytest.raises(ValueError, match="set prune_epochs"):
        plan_of(f"{method}:joint=true", 3, 0, 1)


def test_a_step_follows_the_gradients_of_weights_and_scores(batches_from):
    rate, batch = 0.5, next(iter(batches_from(0, 0)))
    model = make_model("natural")
    model.compile(keras.optimizers.SGD(rate))
    plan = phases(0, 1, 0, method="hydra:joint=true", schedule="constant", warmup=0.0)
    start = {}

    class Start(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            layers = masked_layers(self.model)
            start["before"] = [[np.array(v) for v in (m.kernel, m.scores, m.mask)] for m in layers]
            kernels = [m.kernel.value for m in layers]
            with tf.GradientTape() as tape:
                logits = self.model.net(x, training=True)
                losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
                loss = tf.reduce_mean(losses)
            start["gradients"] = [np.array(g) for g in tape.gradient(loss, kernels)]

    x, y = batch
    recorder = Recorder()
    model.fit(x, y, batch_size=len(x), epochs=1, verbose=0, callbacks=[plan, Start(), recorder])
    assert len(start["before"]) == 3
    for before, slope, after in zip(
        start["before"], start["gradients"], recorder.rows[0], strict=True
    ):
        kernel, scores, mask = before
        # The gradient of a kernel is that of the effective weights times the mask.
        np.testing.assert_allclose(after[0], kernel - rate * slope, atol=1e-6)
        assert np.abs(slope).max() > 1e-4
        kept = mask.astype(bool)
        expected = scores - rate * slope * kernel * np.sign(scores)
        np.testing.assert_allclose(after[1][kept], expected[kept], atol=1e-6)
        # Scores of pruned weights are trained too, their weights are not.
        assert np.abs(after[1] - scores)[~kept].max() > 0
        assert np.array_equal(after[0][~kept], kernel[~kept])
        assert np.array_equal(after[2], topk_mask(after[1], int(kept.sum())).numpy())


@pytest.mark.parametrize(
    "method", ["hydra", pytest.param("lwm", marks=pytest.mark.slow(seconds=4))]
)
def test_fit_and_loop_have_the_same_bits(method, batches_from):
    fitted, looped, recorder = make_model("natural"), make_model("natural"), Recorder()
    plan = joint(1, 2, 1, method=method)
    fitted.fit(
        batches_from(0, 0),
        epochs=4,
        steps_per_epoch=STEPS,
        verbose=0,
        callbacks=[plan, recorder],
    )
    train(looped, batches_from, STEPS, joint(1, 2, 1, method=method), verbose=0)
    assert_same(weights_of(looped), weights_of(fitted))
    kept = [sum(int(mask.sum()) for *_, mask in row) for row in recorder.rows]
    assert kept == [round(density * 772) for density in plan.ramp.densities]
    assert len(set(kept)) > 3
    rows = zip(recorder.rows, recorder.rows[1:], strict=False)
    for before, after in rows:
        changed = sum(m.sum() for *_, m in before) != sum(m.sum() for *_, m in after)
        for (kernel, scores, _), (new_kernel, new_scores, mask) in zip(before, after, strict=True):
            assert not np.array_equal(new_kernel, kernel)
            # Scores are trained, or computed from the weights when the density changes.
            assert np.array_equal(new_scores, scores) == (method == "lwm" and not changed)
            if method == "lwm" and changed:
                assert np.array_equal(mask, topk_mask(kernel, int(mask.sum())).numpy())


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize("method", ["hydra", "lwm"])
@pytest.mark.parametrize("allocation", ["global", "lamp"])
def test_resumed_runs_have_the_same_bits(method, allocation, tmp_path, batches_from):
    def run(folder, *callbacks):
        model = make_model("natural")
        train(
            model, batches_from, STEPS, joint(1, 2, 1, method=method, allocation=allocation),
            callbacks=callbacks, checkpoints=Checkpoints(folder),
            options=LoopOptions(checkpoint_seconds=0.0), verbose=0,
        )  # fmt: skip
        return weights_of(model)

    whole = run(str(tmp_path / "whole"))
    for steps in (7, 4, 6):  # within the prune phase, at its next epoch, in fine-tuning
        with pytest.raises(StopError):
            run(str(tmp_path / "stopped"), FaultAfter(steps))
    assert_same(run(str(tmp_path / "stopped")), whole)


@pytest.mark.slow(seconds=4)
def test_learned_densities_are_trained_together_with_weights(batches_from):
    model = make_model("natural")
    plan = joint(0, 2, 0, schedule=None, allocation="learned:rate=30,gamma=1,start=0.9")
    recorder = Recorder()
    train(model, batches_from, STEPS, plan, callbacks=[recorder], verbose=0)
    first, last = recorder.rows[0], recorder.rows[-1]
    assert not np.array_equal(first[0][0], last[0][0])
    shares = [[mask.mean() for *_, mask in row] for row in (first, last)]
    assert shares[0] != shares[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allocation": "learned", "schedule": None}, "method that trains its scores"),
        ({"score_perturbation": 0.1}, "trains its scores"),
    ],
)
def test_what_needs_trained_scores_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        joint(0, 1, 0, method="lwm", **options)
