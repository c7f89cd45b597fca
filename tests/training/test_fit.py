"""The pipeline as Keras users call it."""

import json
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.attacks.norms import normal
from hydra_tf.core.randomness import slice_of_batch
from hydra_tf.sparsity import GRANULARITIES
from hydra_tf.sparsity.granularities.element import Element
from hydra_tf.sparsity.model import masked_layers
from hydra_tf.training.step import robust_step
from hydra_tf.training.step.microbatches import position_in_global_batch
from hydra_tf.training.step.phases import PHASES, trained_variables

EPSILON = 0.05


def small_net(batchnorm=False, seed=0):
    he = keras.initializers.HeNormal(seed)
    layers = [keras.Input([8, 8, 1]), keras.layers.Conv2D(4, 3, kernel_initializer=he)]
    if batchnorm:
        layers.append(keras.layers.BatchNormalization())
    layers += [
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(10, kernel_initializer=he),
    ]
    return keras.Sequential(layers)


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order]


def robust(net, objective=f"trades:epsilon={EPSILON},steps=2", optimizer=None, **options):
    model = hydra_tf.RobustModel(net, objective, **options)
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
    return model


def values(variables):
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.1),
    "adam": lambda: keras.optimizers.Adam(0.05, weight_decay=0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.05),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_variables_do_not_change_in_any_phase(digits, optimizer):
    x, y = digits[0][:64], digits[1][:64]
    model = robust(small_net(batchnorm=True), optimizer=OPTIMIZERS[optimizer]())
    hydra_tf.set_density(model, 0.3)
    for name in ("pretrain", "prune", "finetune", "pretrain"):
        model.set_phase(name)
        trained = {id(v) for v in trained_variables(model.net, PHASES[name])}
        masks = {id(layer.mask) for layer in masked_layers(model)}
        statistics = {id(v) for v in model.net.layers[1].non_trainable_variables}
        free = trained | statistics | (masks if name == "prune" else set())
        frozen = [v for v in model.net.variables if id(v) not in free]
        changing = [v for v in model.net.variables if id(v) in trained]
        frozen_before, trained_before = values(frozen), values(changing)
        model.fit(x, y, batch_size=16, epochs=1, verbose=0)
        for variable, old, new in zip(frozen, frozen_before, values(frozen), strict=True):
            assert old.tobytes() == new.tobytes(), (name, variable.path)
        for variable, old, new in zip(changing, trained_before, values(changing), strict=True):
            assert not np.array_equal(old, new), (name, variable.path)


def test_variables_trained_in_the_prune_phase(digits):
    net = hydra_tf.mask_model(small_net(batchnorm=True))
    names = [v.name for v in trained_variables(net, PHASES["prune"])]
    assert names == ["scores", "gamma", "beta", "scores"]
    names = [v.name for v in trained_variables(net, PHASES["prune"], train_batchnorm=False)]
    assert names == ["scores", "scores"]


def test_layers_frozen_by_the_user_stay_frozen(digits):
    net = small_net()
    net.layers[0].trainable = False
    model = robust(net)
    before = values(model.net.layers[0].variables)
    pipeline = hydra_tf.HydraCallback(0.5, 1, 1, 1)
    model.fit(digits[0][:64], digits[1][:64], epochs=3, verbose=0, callbacks=[pipeline])
    kernel, bias, scores, _ = model.net.layers[0].variables
    assert np.array_equal(kernel, before[0]) and np.array_equal(bias, before[1])
    # The scores start from the kernel when pruning begins and are not trained either.
    expected = hydra_tf.sparsity.initial_scores(kernel)
    assert np.array_equal(scores, expected)


def test_masks_are_the_top_scores_after_every_step(digits):
    model = robust(small_net())
    hydra_tf.set_density(model, 0.1)
    model.set_phase("prune")
    start = [np.array(layer.mask) for layer in masked_layers(model)]
    for i in range(3):
        model.fit(digits[0][i * 32 :][:32], digits[1][i * 32 :][:32], verbose=0)
        for layer in masked_layers(model):
            scores = np.abs(np.array(layer.scores)).ravel()
            kept = max(1, round(0.1 * scores.size))
            expected = np.zeros(scores.size)
            expected[np.argsort(-scores, kind="stable")[:kept]] = 1
            assert np.array_equal(np.array(layer.mask).ravel(), expected)
    assert any(
        not np.array_equal(old, layer.mask)
        for old, layer in zip(start, masked_layers(model), strict=True)
    )


def test_the_pipeline_prunes_to_the_density_and_learns(digits):
    x, y = digits
    model = robust(small_net())
    pipeline = hydra_tf.HydraCallback(0.2, 4, 2, 3, allocation="uniform")
    assert pipeline.epochs == 9
    history = model.fit(
        x[:1000], y[:1000], epochs=9, validation_data=(x[1000:], y[1000:]), verbose=0,
        callbacks=[pipeline],
    ).history  # fmt: skip
    report = hydra_tf.sparsity.report(model)
    kept = [max(1, round(0.2 * w)) for w in (36, 1440)]
    assert [row["kept"] for row in report["layers"]] == kept
    assert history["density"][:4] == [1.0] * 4
    assert history["density"][4:] == [sum(kept) / 1476] * 5
    # Chance is 10%.
    assert history["val_accuracy"][-1] > 0.6
    assert history["val_robust_accuracy"][-1] > 0.4
    # The model has the weights of the best epoch of the last phase.
    again = model.evaluate(x[1000:], y[1000:], verbose=0, return_dict=True)
    assert again["robust_accuracy"] == pytest.approx(max(history["val_robust_accuracy"][6:]))


def test_a_run_repeats_bit_for_bit_and_depends_on_its_seed(digits):
    def run(seed):
        model = robust(small_net(), seed=seed)
        data = tf.data.Dataset.from_tensor_slices((digits[0][:128], digits[1][:128])).batch(32)
        pipeline = hydra_tf.HydraCallback(0.3, 1, 1, 1)
        model.fit(data, epochs=3, verbose=0, callbacks=[pipeline])
        return b"".join(v.tobytes() for v in values(model.net.variables))

    first = run(0)
    assert run(0) == first
    assert run(1) != first


@pytest.mark.parametrize("method", ["lwm", "random", "snip"])
def test_methods_without_a_prune_phase_never_train_scores(digits, method):
    x, y = digits[0][:96], digits[1][:96]
    model = robust(small_net())
    pipeline = hydra_tf.HydraCallback(0.2, 1, 5, 1, method, allocation="uniform")
    assert pipeline.plan == {"pretrain": 1, "finetune": 1}

    pretrained = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (
            pretrained
            or pretrained.append([np.array(layer.kernel) for layer in masked_layers(model)])
        )
    )
    model.fit(x, y, epochs=2, verbose=0, callbacks=[pipeline, watch])
    for layer, kernel in zip(masked_layers(model), pretrained[0], strict=True):
        kept = int(np.array(layer.mask).sum())
        assert kept == max(1, round(0.2 * kernel.size))
        by_magnitude = np.sort(np.argsort(-np.abs(kernel).ravel(), kind="stable")[:kept])
        same = np.array_equal(np.flatnonzero(np.array(layer.mask)), by_magnitude)
        assert same == (method == "lwm")


def test_snip_scores_are_gradient_times_weight(digits):
    x, y = digits[0][:32], digits[1][:32]
    model = robust(small_net(), "natural")
    pipeline = hydra_tf.HydraCallback(0.2, finetune_epochs=1, method="snip")
    kernels = [tf.convert_to_tensor(layer.kernel) for layer in masked_layers(model)]
    with tf.GradientTape() as tape:
        tape.watch(kernels)
        # The same network by hand.
        hidden = tf.nn.relu(tf.nn.conv2d(x, kernels[0], 1, "VALID"))
        logits = tf.reshape(hidden, [32, -1]) @ kernels[1]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    expected = [abs(g * k) for g, k in zip(tape.gradient(loss, kernels), kernels, strict=True)]
    model.fit(x, y, epochs=1, verbose=0, callbacks=[pipeline])
    for layer, scores in zip(masked_layers(model), expected, strict=True):
        np.testing.assert_allclose(layer.scores, scores, rtol=1e-4, atol=1e-7)


def test_each_phase_resets_optimizer_and_learning_rate(digits):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            optimizer = self.model.optimizer
            momentum = max(float(np.abs(np.array(m)).max()) for m in optimizer.momentums)
            seen.append((int(optimizer.iterations), float(optimizer.learning_rate), momentum))

    model = robust(small_net())
    pipeline = hydra_tf.HydraCallback(0.5, 1, 1, 1, warmup=0.0, learning_rate={"prune": 0.2})
    x, y = digits[0][:40], digits[1][:40]
    model.fit(x, y, batch_size=10, epochs=3, verbose=0, callbacks=[pipeline, Watch()])
    half_cosine = 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))
    assert [row[0] for row in seen] == [0, 1, 2, 3] * 3
    rates = np.concatenate([0.05 * half_cosine, 0.2 * half_cosine, 0.005 * half_cosine])
    np.testing.assert_allclose([row[1] for row in seen], rates, rtol=1e-5)
    assert [row[2] == 0 for row in seen] == [True, False, False, False] * 3
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


def test_schedule_of_the_optimizer_is_kept(digits):
    decay = keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.5)
    model = robust(small_net(), optimizer=keras.optimizers.SGD(decay))
    x, y = digits[0][:32], digits[1][:32]
    callbacks = [hydra_tf.HydraCallback(0.5, 1, 1, 0)]
    model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05 * 0.5**0.1)


def test_progress_bar_names_the_phase(digits, capsys):
    model = robust(small_net())
    x, y = digits[0][:32], digits[1][:32]
    model.fit(x, y, epochs=2, verbose=2, callbacks=[hydra_tf.HydraCallback(0.5, 1, 1, 0)])
    printed = capsys.readouterr().out
    assert "Epoch 1/2 - pretrain, density 1" in printed
    assert "Epoch 2/2 - prune, density 0.5" in printed


def test_early_stopping_does_not_restore_dense_weights(digits):
    x, y = digits
    model = robust(small_net())
    stop = keras.callbacks.EarlyStopping(
        "val_loss", patience=1, min_delta=10.0, restore_best_weights=True
    )
    history = model.fit(
        x[:64], y[:64], epochs=9, validation_data=(x[64:96], y[64:96]), verbose=0,
        callbacks=[stop, hydra_tf.HydraCallback(0.5, 1, 1, 7)],
    )  # fmt: skip
    # Patience starts again in each phase; it ends in the second epoch of fine-tuning.
    assert len(history.epoch) == 4
    assert hydra_tf.sparsity.report(model)["total"]["density"] == 0.5


def test_model_checkpoint_keeps_the_best_of_the_last_phase(digits, tmp_path):
    x, y = digits
    path = str(tmp_path / "best.keras")
    model = robust(small_net())
    save = keras.callbacks.ModelCheckpoint(path, "val_accuracy", mode="max", save_best_only=True)
    model.fit(
        x[:256], y[:256], epochs=4, validation_data=(x[256:320], y[256:320]), verbose=0,
        callbacks=[save, hydra_tf.HydraCallback(0.1, 2, 0, 2, "lwm")],
    )  # fmt: skip
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded, hydra_tf.RobustModel)
    assert loaded.objective == model.objective
    density = hydra_tf.sparsity.report(loaded)["total"]["density"]
    assert density == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    "stop_after", [2, *(pytest.param(n, marks=pytest.mark.slow(seconds=6)) for n in (1, 3, 4, 5))]
)
def test_backup_and_restore_gives_the_same_bits(digits, tmp_path, stop_after):
    data = tf.data.Dataset.from_tensor_slices((digits[0][:96], digits[1][:96])).batch(32)

    class PowerCut(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == stop_after:
                raise KeyboardInterrupt

    def run(*callbacks):
        model = robust(small_net())
        pipeline = hydra_tf.HydraCallback(0.3, 2, 2, 2, warmup=0.2, restore_best_weights=False)
        # The backup may come before the pipeline in the list.
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        model.fit(data, epochs=6, verbose=0, callbacks=[*callbacks, backup, pipeline])
        return values(model.net.variables)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(PowerCut())
    for one, other in zip(whole, run(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_saved_model_continues_training_bit_for_bit(digits, tmp_path):
    x, y = digits[0][:64], digits[1][:64]
    model = robust(small_net())
    hydra_tf.set_density(model, 0.3)
    model.set_phase("prune")
    model.fit(x, y, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.phase.name == "prune"
    for one in (model, loaded):
        one.fit(x, y, verbose=0, shuffle=False)
    for one, other in zip(model.net.variables, loaded.net.variables, strict=True):
        assert np.array_equal(one, other), one.path


def test_mirrored_strategy_gives_every_replica_the_same_masks(digits, two_replicas):
    x, y = digits[0][:128], digits[1][:128]
    with two_replicas.scope():
        model = robust(small_net(), "natural")
    single = robust(small_net(), "natural")
    for one in (model, single):
        pipeline = hydra_tf.HydraCallback(0.3, 1, 1, 1)
        one.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0, callbacks=[pipeline])
    for layer, alone in zip(masked_layers(model), masked_layers(single), strict=True):
        replicas = [np.array(value) for value in layer.mask.value.values]
        assert len(replicas) == 2
        assert np.array_equal(replicas[0], replicas[1])
        # The natural objective has no randomness: two replicas must give the result of one device.
        assert np.array_equal(replicas[0], alone.mask)
        np.testing.assert_allclose(layer.kernel, alone.kernel, rtol=1e-3, atol=1e-5)


def test_replicas_draw_the_noise_of_one_device(two_replicas):
    def noise(count):
        first, total = position_in_global_batch(tf.constant(count))
        with slice_of_batch(first, total):
            seed = hydra_tf.training.step.robust_step.step_context(0, 1, 5, 10).seed
            return normal(tf.zeros([count, 3]), seed)

    alone = noise(6)
    slices = two_replicas.experimental_local_results(two_replicas.run(lambda: noise(3)))
    np.testing.assert_array_equal(np.concatenate(slices), alone)
    assert len(np.unique(alone)) == alone.numpy().size


class RecordsProgress(hydra_tf.objectives.Objective):
    """Natural training that records the progress of each step in a variable."""

    ramp = 0.5

    def __init__(self):
        object.__setattr__(self, "seen", tf.Variable(tf.zeros([0]), shape=[None], dtype="float32"))

    def __call__(self, model, x, y, context):
        self.seen.assign(tf.concat([self.seen, context.progress[None]], 0))
        return hydra_tf.objectives.build("natural")(model, x, y, context)


def test_without_a_pipeline_fit_is_one_phase(digits):
    x, y = digits[0][:64], digits[1][:64]
    model = robust(small_net(), RecordsProgress())
    model.fit(x, y, epochs=2, verbose=0)  # 2 steps an epoch
    assert model.objective.seen.numpy().tolist() == [0.0, 0.25, 0.5, 0.75]
    function = model.train_function
    model.fit(x, y, epochs=2, verbose=0)  # continues at full epsilon, in the same graph
    assert model.objective.seen.numpy().tolist()[4:] == [1.0] * 4
    assert model.train_function is function
    repeated = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat()
    model = robust(small_net(), RecordsProgress())
    model.fit(repeated, epochs=1, steps_per_epoch=4, verbose=0)
    assert model.objective.seen.numpy().tolist() == [0.0, 0.25, 0.5, 0.75]
    model = robust(small_net(), RecordsProgress())
    model.set_phase("finetune", steps=8)
    model.fit(x, y, epochs=1, verbose=0)
    assert model.objective.seen.numpy().tolist() == [0.0, 0.125]


def test_data_of_unknown_length_are_refused_if_epsilon_grows(digits):
    x, y = digits[0][:64], digits[1][:64]
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).filter(lambda x, y: True)
    with pytest.raises(ValueError, match=r"length .* unknown, but .* epsilon grow \(ramp=0.5\)"):
        robust(small_net(), "pgd:ramp=0.5,steps=1").fit(data, verbose=0)
    robust(small_net(), "pgd:steps=1").fit(data, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_scores_and_learns(digits, policy):
    x, y = digits
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = robust(small_net(), "pgd:epsilon=0.05,steps=2")
        pipeline = hydra_tf.HydraCallback(0.3, 2, 1, 1)
        model.fit(x[:640], y[:640], epochs=4, verbose=0, callbacks=[pipeline])
    finally:
        keras.config.set_dtype_policy(before)
    for layer in masked_layers(model):
        assert (layer.scores.dtype, layer.mask.dtype) == ("float32", "bool")
    assert model(x[:2]).dtype in ("bfloat16", "float16")
    assert hydra_tf.evaluation.accuracy(model, (x[640:], y[640:])) > 0.3


def data_forms(x, y):
    pairs = tf.data.Dataset.from_tensor_slices((x, y))

    def generate():
        while True:
            yield x[:32], y[:32]

    return {
        "numpy": ((x, y), {"batch_size": 32}),
        "one_hot": ((x, np.eye(10)[y]), {"batch_size": 32}),
        "column": ((x, y[:, None]), {"batch_size": 32}),
        "dataset": ((pairs.batch(32),), {}),
        "repeated": ((pairs.batch(32).repeat(),), {"steps_per_epoch": 2}),
        "generator": ((generate(),), {"steps_per_epoch": 2}),
        "split": ((x, y), {"batch_size": 32, "validation_split": 0.25}),
    }


@pytest.mark.parametrize(
    "form", ["numpy", "one_hot", "column", "dataset", "repeated", "generator", "split"]
)
def test_every_form_of_data_trains(digits, form):
    x, y = digits[0][:64], digits[1][:64]
    args, options = data_forms(x, y)[form]
    model = robust(small_net())
    pipeline = hydra_tf.HydraCallback(0.3, 1, 1, 1)
    history = model.fit(*args, epochs=3, verbose=0, callbacks=[pipeline], **options).history
    assert hydra_tf.sparsity.report(model)["total"]["density"] == pytest.approx(0.3, abs=0.01)
    if form == "split":
        assert len(history["val_robust_accuracy"]) == 3


def test_steps_per_execution_changes_nothing(digits):
    x, y = digits[0][:64], digits[1][:64]

    def run(steps):
        model = hydra_tf.RobustModel(small_net(), "natural")
        model.compile(keras.optimizers.SGD(0.05), steps_per_execution=steps)
        pipeline = hydra_tf.HydraCallback(0.3, 1, 1, 1, schedule=None)
        model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[pipeline])
        return values(model.net.variables)

    for one, other in zip(run(1), run(2), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_nan_loss_restores_the_last_good_weights(digits):
    x, y = digits[0][:64], digits[1][:64]
    model = robust(small_net(), "natural")
    good_weights = []

    class SetNaN(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                good_weights.extend(values(self.model.net.variables))
                self.model.net.layers[-1].bias.assign(np.full(10, np.nan, "float32"))

    message = r"nan in epoch 2, step 1, in phase pretrain;.*end of epoch 1"
    with pytest.raises(FloatingPointError, match=message):
        model.fit(x, y, epochs=3, verbose=0, callbacks=[SetNaN()])
    for old, new in zip(good_weights, values(model.net.variables), strict=True):
        assert np.array_equal(old, new)


def test_metrics_log_replaces_the_lines_of_repeated_epochs(digits, tmp_path):
    x, y = digits[0][:32], digits[1][:32]
    path = tmp_path / "metrics.jsonl"
    model = robust(small_net(), "natural")
    log = hydra_tf.training.MetricsLog(path)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[log])
    model.fit(x, y, epochs=2, initial_epoch=1, verbose=0, callbacks=[log])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "accuracy", "phase"} <= set(rows[0])


def test_tensorboard_gets_the_scalars(digits, tmp_path):
    x, y = digits[0][:32], digits[1][:32]
    model = robust(small_net())
    board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    pipeline = hydra_tf.HydraCallback(0.5, 1, 1, 0)
    model.fit(x, y, epochs=2, validation_data=(x, y), verbose=0, callbacks=[pipeline, board])
    tags = set()
    for path in tmp_path.rglob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    assert {"epoch_loss", "epoch_robust_accuracy", "epoch_density"} <= tags


def test_set_density_between_fits_is_kept(digits):
    x, y = digits[0][:32], digits[1][:32]
    model = robust(small_net(), "natural")
    model.set_phase("prune")
    model.fit(x, y, verbose=0)
    hydra_tf.set_density(model, 0.1)
    model.fit(x, y, verbose=0)
    kept = [row["kept"] for row in hydra_tf.sparsity.report(model)["layers"]]
    assert kept == [round(0.1 * 36), round(0.1 * 1440)]


def test_one_pipeline_over_three_fits_keeps_the_learned_scores(digits):
    x, y = digits[0][:64], digits[1][:64]

    def fit(model, *pipelines):
        for pipeline in pipelines:
            options = {"epochs": pipeline.epochs, "shuffle": False, "verbose": 0}
            model.fit(x, y, callbacks=[pipeline], **options)
        return values(model.net.variables)

    whole = fit(robust(small_net()), hydra_tf.HydraCallback(0.3, 1, 1, 1))
    separate = fit(
        robust(small_net()),
        hydra_tf.HydraCallback(0.3, pretrain_epochs=1),
        hydra_tf.HydraCallback(0.3, prune_epochs=1),
        hydra_tf.HydraCallback(0.3, finetune_epochs=1),
    )
    for one, other in zip(whole, separate, strict=True):
        assert np.array_equal(one, other)


def test_nan_in_the_last_step_is_detected(digits):
    x, y = digits[0][:32], digits[1][:32]
    model = robust(small_net(), "natural")
    before = values(model.net.variables)

    class SetNaN(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.net.layers[-1].bias.assign(np.full(10, np.nan, "float32"))

    # The guard checks the weights after the other callbacks of the epoch.
    with pytest.raises(FloatingPointError, match=r"weights became NaN .* weights of the start"):
        model.fit(x, y, batch_size=32, epochs=1, verbose=0, callbacks=[SetNaN()])
    for old, new in zip(before, values(model.net.variables), strict=True):
        assert np.array_equal(old, new)


def test_early_stopping_restores_the_best_epoch_of_the_phase(digits):
    x, y = digits
    model = robust(small_net())
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=10.0)
    data = (x[64:200], y[64:200])
    history = model.fit(
        x[:64], y[:64], epochs=9, validation_data=data, verbose=0,
        callbacks=[stop, hydra_tf.HydraCallback(0.5, 9)],
    ).history  # fmt: skip
    best = max(history["val_robust_accuracy"])
    again = model.evaluate(*data, verbose=0, return_dict=True)["robust_accuracy"]
    assert len(history["loss"]) < 9
    assert again == pytest.approx(best)


def test_an_interrupted_schedule_does_not_change_the_next_one(digits, tmp_path):
    x, y = digits[0][:64], digits[1][:64]

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.save(tmp_path / "model.keras")
                raise KeyboardInterrupt

    model = robust(small_net(), "natural")
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            x, y, epochs=3, verbose=0, callbacks=[hydra_tf.HydraCallback(0.5, 3), Interrupt()]
        )
    assert float(model.optimizer.learning_rate) < 0.04
    for one in (model, keras.saving.load_model(tmp_path / "model.keras")):
        pipeline = hydra_tf.HydraCallback(0.5, 1)
        one.fit(x, y, epochs=1, verbose=0, callbacks=[pipeline])
        assert float(one.optimizer.learning_rate) == pytest.approx(0.05)


def test_snip_uses_all_weights_and_keeps_batchnorm_statistics(digits):
    x, y = digits[0][:32], digits[1][:32]
    model = robust(small_net(batchnorm=True), "natural")
    hydra_tf.set_density(model, 0.1)
    statistics = values(model.net.layers[1].non_trainable_variables)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(
            values(model.net.layers[1].non_trainable_variables)
        )
    )
    pipeline = hydra_tf.HydraCallback(0.5, finetune_epochs=1, method="snip")
    model.fit(x, y, batch_size=32, epochs=1, verbose=0, callbacks=[pipeline, watch])
    for old, new in zip(statistics, seen[0], strict=True):
        assert np.array_equal(old, new)
    scores = np.asarray(model.net.layers[-1].scores)
    assert (scores > 0).mean() > 0.3  # 0.1 if the previous mask were applied


@pytest.mark.slow(seconds=20)
def test_mirrored_trades_with_validation_prunes_to_the_density(digits, two_replicas):
    x, y = digits[0][:128], digits[1][:128]
    with two_replicas.scope():
        model = robust(small_net(batchnorm=True))
    pipeline = hydra_tf.HydraCallback(0.3, 1, 1, 1)
    history = model.fit(
        x, y, batch_size=32, epochs=3, validation_data=(x, y), verbose=0, callbacks=[pipeline]
    ).history
    assert len(history["val_robust_accuracy"]) == 3
    assert hydra_tf.sparsity.report(model)["total"]["density"] == pytest.approx(0.3, abs=0.01)


class SetDensity(keras.callbacks.Callback):
    """Sets a density before each epoch or each step, and records what the masks keep after it."""

    def __init__(self, densities, every_step=False):
        super().__init__()
        self.densities, self.every_step, self.kept = iter(densities), every_step, []

    def set(self):
        hydra_tf.set_density(self.model, next(self.densities))

    def note(self):
        self.kept.append([row["kept"] for row in hydra_tf.sparsity.report(self.model)["layers"]])

    def on_epoch_begin(self, epoch, logs=None):
        if not self.every_step:
            self.set()

    def on_train_batch_begin(self, batch, logs=None):
        if self.every_step:
            self.set()

    def on_train_batch_end(self, batch, logs=None):
        if self.every_step:
            self.note()

    def on_epoch_end(self, epoch, logs=None):
        if not self.every_step:
            self.note()


DENSITIES = [0.8, 0.3, 1.0, 0.1]


@pytest.mark.parametrize(
    ("every_step", "pipeline"), [(False, True), (True, False)], ids=["epoch", "step"]
)
def test_set_density_during_a_fit_holds(digits, every_step, pipeline, monkeypatch):
    x, y = digits[0][:32], digits[1][:32]
    model = robust(small_net(), "natural")
    density = SetDensity(DENSITIES, every_step)
    epochs, traces = (1 if every_step else 4), []
    refresh = robust_step.refresh_masks
    monkeypatch.setattr(
        robust_step, "refresh_masks", lambda *given: (traces.append(1), refresh(*given))
    )
    counts = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: counts.append(len(traces))
    )
    callbacks = [density, count]
    if pipeline:
        callbacks += [hydra_tf.HydraCallback(0.5, 0, epochs, restore_best_weights=False)]
    else:
        model.set_phase("prune")
    model.fit(
        *(x, y), batch_size=8 if every_step else 32, epochs=epochs, verbose=0, callbacks=callbacks
    )
    assert density.kept == [[round(d * 36), round(d * 1440)] for d in DENSITIES]
    assert len(counts) == 4 and len(set(counts)) == 1  # the graph was not traced again
    for layer in masked_layers(model):
        magnitudes = np.abs(np.asarray(layer.scores))
        assert magnitudes[layer.mask].min() >= magnitudes[~np.asarray(layer.mask)].max()


@pytest.mark.slow
def test_set_density_during_a_mirrored_fit_holds(digits, two_replicas):
    x, y = digits[0][:32], digits[1][:32]
    with two_replicas.scope():
        model = robust(small_net(), "natural")
    model.set_phase("prune")
    density = SetDensity(DENSITIES)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[density])
    assert density.kept == [[round(d * 36), round(d * 1440)] for d in DENSITIES]
    for layer in masked_layers(model):
        one, other = layer.mask.value.values
        assert np.array_equal(one, other)


def test_a_granularity_set_during_a_fit_holds(digits, monkeypatch):
    @dataclass(frozen=True)
    class First(Element):
        def __call__(self, scores, kept, axes=""):
            chosen = tf.range(tf.size(scores)) < kept
            return tf.reshape(chosen, scores.shape)

    monkeypatch.setattr(GRANULARITIES, "_parts", {**GRANULARITIES._parts, "first": (First, {})})
    model = robust(small_net(), "natural")
    model.set_phase("prune")

    def set_first(epoch, logs):
        if epoch == 1:
            hydra_tf.set_density(model, 0.5, granularity="first")

    change = keras.callbacks.LambdaCallback(on_epoch_begin=set_first)
    model.fit(digits[0][:32], digits[1][:32], epochs=2, verbose=0, callbacks=[change])
    for layer in masked_layers(model):
        mask = np.asarray(layer.mask).ravel()
        assert np.array_equal(mask, np.arange(mask.size) < mask.size / 2)
