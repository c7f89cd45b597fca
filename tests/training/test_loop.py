"""The training loop: the bits of ``fit``, several replicas, and options of the machine."""

import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.training import LoopOptions, StepOptions, train
from hydra_tf.training.long_runs.loop_graphs import distribute_batches
from hydra_tf.training.long_runs.moving_average import MovingAverage
from hydra_tf.training.step.microbatches import clipped
from tests.training.loops import (
    STEPS,
    TRADES,
    assert_same,
    make_model,
    phases,
    small_net,
    weights_of,
)


@pytest.mark.parametrize(
    "objective",
    ["natural", TRADES, pytest.param("free:epsilon=0.1,replays=2", marks=pytest.mark.slow)],
)
def test_loop_gives_the_bits_of_fit(objective, batches_from, validation):
    fitted, looped = make_model(objective), make_model(objective)
    history = fitted.fit(
        batches_from(0, 0),
        epochs=4,
        steps_per_epoch=STEPS,
        validation_data=validation,
        callbacks=[phases(1, 2, 1)],
        verbose=0,
    )
    logs = train(
        looped, batches_from, STEPS, phases(1, 2, 1), validation_data=validation, verbose=0
    )
    assert_same(weights_of(looped), weights_of(fitted))
    for key, values in history.history.items():
        if key == "density":  # the pipeline adds it for other callbacks
            continue
        assert logs[key] == pytest.approx(values[-1], rel=1e-5), key


@pytest.mark.parametrize(
    "objective",
    [
        TRADES,
        *(
            pytest.param(spec, marks=pytest.mark.slow(seconds=10))
            for spec in (
                "smoothing",
                "pgd:norm=l2,epsilon=0.5,steps=2",
                "mixtrain:epsilon=0.02,samples=2",
            )
        ),
    ],
)
def test_two_replicas_equal_one_device(objective, batches_from, validation, two_replicas):
    alone, shared = make_model(objective), make_model(objective, two_replicas)
    kwargs = {"validation": validation, "verbose": 0}
    logs = train(alone, batches_from, STEPS, phases(1, 2, 1), **kwargs)
    shared_logs = train(shared, batches_from, STEPS, phases(1, 2, 1), **kwargs)  # 20 steps in all
    # The order of sums differs: float32 rounding over 20 steps with momentum.
    assert_same(weights_of(shared), weights_of(alone), atol=2e-4)
    for key, value in logs.items():
        assert shared_logs[key] == pytest.approx(value, abs=2e-3), key


def test_synchronized_batchnorm_uses_the_whole_batch(batches_from, two_replicas):
    def synchronized(strategy):
        with strategy.scope() if strategy else contextlib.nullcontext():
            net = hydra_tf.models.synchronize_batchnorm(small_net(norm=True))
            model = hydra_tf.RobustModel(net, "natural")
            model.compile(keras.optimizers.SGD(0.05))
        train(model, batches_from, STEPS, phases(1, 1), verbose=0)
        return weights_of(model)

    assert_same(synchronized(two_replicas), synchronized(None), atol=2e-4)


def test_batches_are_split_over_replicas_in_order(two_replicas):
    data = tf.data.Dataset.from_tensor_slices((np.arange(7.0)[:, None], np.arange(7))).batch(5)
    local = two_replicas.experimental_local_results
    slices = [
        [s.numpy().tolist() for s in local(y)] for _, y in distribute_batches(data, two_replicas)
    ]
    assert slices == [[[0, 1], [2, 3, 4]], [[5], [6]]]
    padded = [
        [s.numpy().tolist() for s in local(y)]
        for _, y in distribute_batches(data, two_replicas, pad=True)
    ]
    assert padded == [[[0, 1, 2], [3, 4, -1]], [[5], [6]]]


@pytest.mark.parametrize(
    ("options", "objective", "atol"),
    [
        pytest.param(
            LoopOptions(steps_per_execution=2), TRADES, 0.0, marks=pytest.mark.slow(seconds=10)
        ),
        pytest.param(
            LoopOptions(step=StepOptions(microbatches=3)), TRADES, 2e-4,
            marks=pytest.mark.slow(seconds=15),
        ),
        # XLA draws other random numbers, so the objective must not draw any.
        pytest.param(
            LoopOptions(step=StepOptions(jit_compile=True)), "crown_ibp:epsilon=0.02", 2e-4,
            marks=pytest.mark.slow(seconds=40),
        ),
        # The last batch has 22 images: some of the 24 microbatches are empty.
        (LoopOptions(step=StepOptions(microbatches=24)), "natural", 2e-4),
    ],
    ids=["steps_per_execution", "microbatches", "jit", "empty microbatches"],
)  # fmt: skip
def test_options_of_the_machine_do_not_change_results(options, objective, atol, batches_from):
    plain, other = make_model(objective), make_model(objective)
    train(plain, batches_from, STEPS, phases(1, 2, 1), verbose=0)
    train(other, batches_from, STEPS, phases(1, 2, 1), options=options, verbose=0)
    assert_same(weights_of(other), weights_of(plain), atol)


def test_microbatches_with_replays(batches_from):
    plain, divided = (make_model("free:epsilon=0.1,replays=2") for _ in range(2))
    train(plain, batches_from, STEPS, phases(1, 1), verbose=0)
    options = LoopOptions(step=StepOptions(microbatches=2))
    train(divided, batches_from, STEPS, phases(1, 1), options=options, verbose=0)
    assert_same(weights_of(divided), weights_of(plain), atol=1e-3)


def test_gradients_are_clipped_by_their_global_norm(two_replicas):
    gradients = [tf.constant([3.0, 0.0]), None, tf.constant([[4.0]])]
    clipped_gradients = clipped(gradients, 1.0, unit=1.0)
    np.testing.assert_allclose(clipped_gradients[0], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped_gradients[2], [[0.8]], rtol=1e-6)
    assert clipped_gradients[1] is None
    untouched = clipped(gradients, 10.0, unit=1.0)
    np.testing.assert_array_equal(untouched[0], [3.0, 0.0])
    scaled = clipped([tf.constant([30.0, 40.0])], 1.0, unit=10.0)
    np.testing.assert_allclose(scaled[0], [6.0, 8.0], rtol=1e-6)

    # Two replicas with [3, 0] and [0, 4]: the sum has norm 5; each returns half of the result.
    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradient = tf.cond(replica == 0, lambda: [3.0, 0.0], lambda: [0.0, 4.0])
        return clipped([tf.stack(gradient)], 1.0, unit=1.0)[0]

    results = two_replicas.experimental_local_results(two_replicas.run(tf.function(step)))
    for result in results:
        np.testing.assert_allclose(result, [0.3, 0.4], rtol=1e-6)


def test_clipped_training_is_the_same_on_two_replicas(batches_from, two_replicas):
    options = LoopOptions(step=StepOptions(global_clipnorm=0.05))
    unclipped, alone, shared = make_model(), make_model(), make_model(strategy=two_replicas)
    train(unclipped, batches_from, STEPS, phases(1), verbose=0)
    train(alone, batches_from, STEPS, phases(1), options=options, verbose=0)
    train(shared, batches_from, STEPS, phases(1), options=options, verbose=0)
    assert_same(weights_of(shared), weights_of(alone), atol=2e-5)
    pairs = zip(weights_of(unclipped).values(), weights_of(alone).values(), strict=True)
    changes = [np.abs(a - b).max() for a, b in pairs if a.dtype != bool]
    assert max(changes) > 1e-3


def test_the_average_is_the_published_recursion():
    weight = keras.Variable(0.0)
    average = MovingAverage([weight], 0.75)
    expected = 0.0
    for value in (1.0, 2.0, -1.0):
        weight.assign(value)
        average.update()
        expected = 0.75 * expected + 0.25 * value
    assert float(average.variables[0]) == pytest.approx(expected)
    average.swap()
    assert float(weight) == pytest.approx(expected)
    assert float(average.variables[0]) == -1.0


def test_training_ends_with_the_average_of_the_weights(batches_from):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([np.array(w) for w in self.model.net.trainable_variables])

    model = make_model("natural")
    first = [np.array(w) for w in model.net.trainable_variables]
    pipeline = phases(2, restore_best_weights=False)
    options = LoopOptions(average=0.5)
    train(model, batches_from, STEPS, pipeline, callbacks=[Watch()], options=options, verbose=0)
    averages = first
    for values in seen:
        averages = [a + 0.5 * (v - a) for a, v in zip(averages, values, strict=True)]
    trained = [np.array(w) for w in model.net.trainable_variables]
    names = [w.name for w in model.net.trainable_variables]
    for name, weight, average in zip(names, trained, averages, strict=True):
        if name != "scores":
            np.testing.assert_allclose(weight, average, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (LoopOptions, {"steps_per_execution": 0}, "at least 1"),
        (LoopOptions, {"average": 1.0}, "in (0, 1)"),
        (LoopOptions, {"checkpoint_seconds": -1.0}, "at least 0"),
        (StepOptions, {"microbatches": 0}, "at least 1"),
        (StepOptions, {"global_clipnorm": 0.0}, "positive"),
    ],
)
def test_options_out_of_range_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**values)


def test_jit_on_several_replicas_is_refused(batches_from, two_replicas):
    options = LoopOptions(step=StepOptions(jit_compile=True))
    with pytest.raises(ValueError, match="one replica"):
        train(
            make_model(strategy=two_replicas),
            batches_from,
            STEPS,
            phases(1),
            options=options,
            verbose=0,
        )


@pytest.mark.parametrize("steps", [1, 3])
def test_learning_rate_is_set_per_step_and_restored(steps, batches_from):
    model, seen = make_model("natural"), []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    # The second run starts from the compiled rate, not from the end of the first schedule.
    for _ in range(2):
        options = LoopOptions(steps_per_execution=steps)
        kwargs = {"callbacks": [Rates()], "options": options, "verbose": 0}
        train(model, batches_from, STEPS, phases(2, warmup=0.0), **kwargs)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
    rates = [
        hydra_tf.core.schedules.SCHEDULES["cosine"](i, 2 * STEPS, 0.1, 0.0)
        for i in range(2 * STEPS)
    ]
    recorded_steps = {1: range(10), 3: (2, 4, 7, 9)}[steps]
    assert seen == pytest.approx([rates[i] for i in recorded_steps] * 2, rel=1e-5)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_set_density_during_a_run_holds(replicas, batches_from, two_replicas):
    model = make_model("natural", strategy=two_replicas if replicas == 2 else None)
    densities, kept = [0.8, 0.2, 0.5], []

    def set_density(epoch, logs):
        hydra_tf.set_density(model, densities[epoch])

    def note(epoch, logs):
        kept.append([row["kept"] for row in hydra_tf.sparsity.report(model)["layers"]])

    watch = keras.callbacks.LambdaCallback(on_epoch_begin=set_density, on_epoch_end=note)
    pipeline = phases(0, 3, restore_best_weights=False)
    train(model, batches_from, 2, pipeline, callbacks=[watch], verbose=0)
    sizes = [row["weights"] for row in hydra_tf.sparsity.report(model)["layers"]]
    assert kept == [[round(density * size) for size in sizes] for density in densities]
