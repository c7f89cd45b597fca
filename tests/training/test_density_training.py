"""Densities are learned with the scores: gradients, budget, replicas, and exact resume."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.objectives import build
from hydra_tf.sparsity import masked_layers, report
from hydra_tf.sparsity.learned import Learned
from hydra_tf.sparsity.topk import kept_count
from hydra_tf.training import Checkpoints, LoopOptions, StepOptions, train
from hydra_tf.training.step.density_training import DensityTraining
from hydra_tf.training.step.phases import PHASES, trained_variables
from hydra_tf.training.step.robust_step import robust_step, step_context
from tests.training.loops import (
    STEPS,
    FaultAfter,
    StopError,
    assert_same,
    make_model,
    phases,
    small_net,
    weights_of,
)

RATE = 0.1
X = np.random.default_rng(0).random((32, 8, 8, 1)).astype("float32")
Y = np.random.default_rng(1).integers(0, 10, 32).astype("int32")


def training_of(net, part=None, density=0.1):
    training = DensityTraining(net, part or Learned(), density, keras.layers.Layer().add_weight)
    training.start()
    return training


def sums_of_mask_gradients(net):
    """Return the gradients of the loss with respect to the density of each layer, by definition."""
    layers = masked_layers(net)
    masks = [tf.Variable(tf.cast(layer.mask, tf.float32)) for layer in layers]
    plain = hydra_tf.strip_masks(net)
    kernels = [layer.kernel for layer in plain.layers if hasattr(layer, "kernel")]
    with tf.GradientTape() as tape:
        products = [tf.convert_to_tensor(x.kernel) * m for x, m in zip(layers, masks, strict=True)]
        with keras.StatelessScope(state_mapping=list(zip(kernels, products, strict=True))):
            logits = plain(X, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(Y, logits)
        loss = tf.reduce_mean(losses)
    return [float(tf.reduce_sum(g)) for g in tape.gradient(loss, masks)]


def one_step(net, training, optimizer, options=None):
    phase = PHASES["prune"]
    variables = trained_variables(net, phase)
    if not optimizer.built:
        optimizer.build(variables)
    robust_step(
        net, build("natural"), optimizer, variables, X, Y, step_context(0, 1, 0, None),
        refresh=True, options=options, densities=training,
    )  # fmt: skip


def test_steps_follow_the_gradients_of_masks_and_penalty():
    net, density = hydra_tf.mask_model(small_net()), 0.1
    part = Learned(start=0.2, k_min=0.1, gamma=0.5, rate=0.3, momentum=0.5)
    training = training_of(net, part, density)
    optimizer = keras.optimizers.SGD(RATE, momentum=0.9)
    sizes, lowest = np.array([36, 576, 160]), 0.01
    c = np.full(3, np.log(0.19 / 0.80))  # (k - lowest) / (1 - k)
    velocity = np.zeros(3)
    for _ in range(3):
        sigmoid = 1 / (1 + np.exp(-c))
        k = lowest + (1 - lowest) * sigmoid
        np.testing.assert_allclose(training.densities(), k, rtol=1e-5)
        counts = [int(np.sum(layer.mask)) for layer in masked_layers(net)]
        assert counts == np.round(k * sizes).astype(int).tolist()
        assert training.budget_used() == pytest.approx(np.sum(sizes * k) / (772 * density))
        assert np.sum(sizes * k) > 772 * density
        slopes = np.array(sums_of_mask_gradients(net)) + 0.5 * sizes / (772 * density)
        slopes *= (1 - lowest) * sigmoid * (1 - sigmoid)
        velocity = 0.5 * velocity - 0.3 * RATE * slopes
        c = c + velocity
        one_step(net, training, optimizer)
    np.testing.assert_allclose(training.densities(), lowest + 0.99 / (1 + np.exp(-c)), rtol=1e-4)


def test_no_penalty_within_the_budget():
    net = hydra_tf.mask_model(small_net())
    training = training_of(net, Learned(start=0.5, gamma=100.0), 0.5)
    [layer.scores.assign(layer.scores * 0) for layer in masked_layers(net)]  # no loss gradient
    training._logits.assign_sub([0.01] * 3)
    before = np.array(training.densities())
    one_step(net, training, keras.optimizers.SGD(RATE))
    np.testing.assert_array_equal(training.densities(), before)
    assert training.end_epoch()["budget_used"] < 1
    assert float(training._penalty[0]) == 100.0
    training._logits.assign_add([0.1] * 3)
    assert training.end_epoch()["budget_used"] > 1
    assert float(training._penalty[0]) == 200.0
    one_step(net, training, keras.optimizers.SGD(RATE))
    assert training.budget_used() < 1


def test_a_step_that_loss_scaling_skips_changes_no_density():
    net = hydra_tf.mask_model(small_net())
    training, optimizer = training_of(net), keras.optimizers.SGD(RATE)
    one_step(net, training, optimizer)
    before = [np.array(v) for v in (training._logits, training._velocity)]
    variables = trained_variables(net, PHASES["prune"])
    gradients = [tf.ones(v.shape) for v in variables]
    training.update(optimizer, variables, [*gradients[:-1], gradients[-1] * np.inf])
    after = [np.array(v) for v in (training._logits, training._velocity)]
    np.testing.assert_array_equal(after, before)
    training.update(optimizer, variables, gradients)
    assert not np.array_equal(training._logits, before[0])


def test_loss_scale_and_microbatches_change_rounding_only():
    results = []
    for scale, options in ((None, None), (1024.0, None), (None, StepOptions(microbatches=4))):
        net = hydra_tf.mask_model(small_net())
        training = training_of(net, Learned(rate=100.0))
        optimizer = keras.optimizers.SGD(RATE)
        if scale:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
        for _ in range(2):
            one_step(net, training, optimizer, options)
        results.append(np.array(training.densities()))
    assert np.abs(results[0] - 0.1).max() > 1e-4
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-4)


class Seen(keras.callbacks.Callback):
    """Records the numbers of kept weights in validation and at the end of epochs, and the logs."""

    def __init__(self):
        super().__init__()
        self.tested, self.ended, self.logs = [], [], []

    def kept(self):
        return [row["kept"] for row in report(self.model)["layers"]]

    def on_test_end(self, logs=None):
        self.tested.append(self.kept())

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(self.kept())
        self.logs.append(dict(logs))


def run(batches_from, validation, *callbacks, strategy=None, store=None, plan=(1, 3, 1), **options):
    model = make_model("natural", strategy)
    train(
        model, batches_from, STEPS,
        phases(*plan, density=0.1, **{"allocation": "learned:start=0.3,gamma=0.2", **options}),
        validation_data=validation, callbacks=callbacks,
        checkpoints=store, options=LoopOptions(checkpoint_seconds=0.0), verbose=0,
    )  # fmt: skip
    return model


@pytest.fixture(scope="module")
def whole(batches_from, validation):
    """Return the model of an uninterrupted run, and what was seen."""
    seen = Seen()
    return run(batches_from, validation, seen), seen


def test_every_epoch_is_evaluated_at_the_exact_budget(whole):
    model, seen = whole
    assert seen.tested[:3] == seen.ended[:3]  # at its end, a phase takes its best epoch
    assert seen.ended[3] in seen.tested[1:4]
    assert [sum(kept) for kept in seen.tested] == [772, *[kept_count(0.1, 772)] * 4]
    assert seen.tested[1] != seen.tested[3]  # the shares of the layers have moved
    assert seen.ended[4] == seen.ended[3]  # fine-tuning keeps the masks
    assert [sorted(k for k in logs if k.startswith("density/")) != [] for logs in seen.logs] == [
        False, True, True, True, False
    ]  # fmt: skip
    used = [logs["budget_used"] for logs in seen.logs[1:4]]
    assert used[0] > used[2] > 0
    first = masked_layers(model.net)[0]
    assert seen.logs[1][f"density/{first.label}"] == pytest.approx(seen.ended[1][0] / 36)


def test_stopped_runs_resume_with_the_same_bits(whole, tmp_path, batches_from, validation):
    with pytest.raises(StopError):  # within the second epoch of the prune phase
        run(batches_from, validation, FaultAfter(13), store=Checkpoints(str(tmp_path)))
    resumed = run(batches_from, validation, store=Checkpoints(str(tmp_path)))
    assert_same(weights_of(resumed), weights_of(whole[0]))
    state, expected = (m.density_training.densities() for m in (resumed, whole[0]))
    np.testing.assert_array_equal(state, expected)


@pytest.mark.slow
def test_two_replicas_have_the_masks_of_one_device(batches_from, two_replicas):
    models = [run(batches_from, None, strategy=s, plan=(0, 2, 0)) for s in (None, two_replicas)]
    one, two = (model.density_training for model in models)
    np.testing.assert_allclose(two.densities(), one.densities(), rtol=1e-4)
    for layer, other in zip(*(masked_layers(model.net) for model in models), strict=True):
        np.testing.assert_array_equal(layer.mask, other.mask)
    values = two._logits.value.values  # of both replicas
    np.testing.assert_array_equal(values[0], values[1])


@pytest.mark.slow
def test_a_resumed_fit_and_a_loaded_model_have_the_same_bits(tmp_path, batches_from):
    data = batches_from(0, 0).take(STEPS).repeat()

    def fit(*callbacks, model=None):
        model = model or make_model("natural")
        plan = phases(0, 3, 1, density=0.1, allocation="learned:start=erk")
        options = {"epochs": 4, "steps_per_epoch": STEPS, "verbose": 0}
        model.fit(data, callbacks=[plan, *callbacks], **options)
        return model

    expected, backup = fit(), str(tmp_path / "backup")
    with pytest.raises(StopError):
        fit(keras.callbacks.BackupAndRestore(backup), FaultAfter(2 * STEPS + 2))
    resumed = fit(keras.callbacks.BackupAndRestore(backup))
    assert_same(weights_of(resumed), weights_of(expected))
    expected.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for variable, other in zip(loaded.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(variable, other)
    assert loaded.density_training.part == Learned(start="erk")


@pytest.mark.slow
def test_another_fit_does_not_train_densities(batches_from):
    model = run(batches_from, None, plan=(0, 1, 0))
    kept = [row["kept"] for row in report(model)["layers"]]
    data = batches_from(0, 0).take(STEPS)
    model.fit(data, epochs=1, verbose=0)  # in the prune phase, which is the last one
    assert model.phase.name == "prune"
    assert [row["kept"] for row in report(model)["layers"]] == kept
    plan = phases(0, 1, 0, density=0.1)
    model.fit(data, epochs=1, verbose=0, callbacks=plan)
    assert [row["kept"] for row in report(model)["layers"]] == [4, 57, 16]


@pytest.mark.parametrize(
    ("plan", "options", "sentence"),
    [
        ((1, 2, 1), {"method": "lwm"}, 'method "lwm" runs pretrain and finetune only; set prune'),
        ((0, 0, 1), {}, 'method "hydra" runs finetune only'),
        ((1, 2, 1), {"density_schedule": "cubic"}, "density_schedule='cubic' would contradict it"),
    ],
)
def test_learned_densities_need_a_prune_phase_and_no_schedule(plan, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        phases(*plan, allocation="learned", **options)
    assert phases(1, 0, 0, allocation="learned").epochs == 1  # nothing is pruned
    assert phases(0, 2, 1, allocation="learned", density_schedule="one_shot").epochs == 3


def test_unknown_multiply_adds_are_refused_before_pretraining(batches_from):
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Reshape((8, 8)),
            keras.layers.LSTM(4),
            keras.layers.Dense(10),
        ]
    )
    model, seen = hydra_tf.RobustModel(net, "natural"), Seen()
    model.compile("sgd")
    plan = phases(1, 1, 1, density=0.5, allocation="learned:budget=flops")
    with pytest.raises(ValueError, match="multiply-adds of the layer"):
        train(model, batches_from, STEPS, plan, callbacks=[seen], verbose=0)
    assert not seen.ended
