"""Free adversarial training against a plain loop, and the perturbation that it stores."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf import objectives
from hydra_tf.core.schedules import SCHEDULES
from hydra_tf.objectives.free import Free
from hydra_tf.sparsity.model import masked_layers

EPSILON = 0.1
RNG = np.random.default_rng(2)
X = RNG.random((40, 6, 6, 1)).astype("float32")
Y = RNG.integers(0, 3, 40)


def small_net(seed=0):
    he = keras.initializers.HeNormal(seed)
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            keras.layers.Conv2D(3, 3, kernel_initializer=he, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_initializer=he),
        ]
    )


def robust(spec=f"free:epsilon={EPSILON},replays=3", net=None, **options):
    model = hydra_tf.RobustModel(net or small_net(), spec)
    model.compile(keras.optimizers.SGD(0.2, momentum=0.9), metrics=["accuracy"], **options)
    return model


def batches(size=16):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)


def values(model):
    return [
        keras.ops.convert_to_numpy(v).copy() for v in (*model.net.variables, model._perturbation)
    ]


def plain_loop(norm, replays, step, epochs=1):
    """Return weights and perturbation after some epochs of Algorithm 1 of the paper."""
    net = small_net()
    weights = net.trainable_variables
    velocities = [np.zeros(w.shape, "float32") for w in weights]
    delta = np.zeros((16, 6, 6, 1), "float32")
    for start in [0, 16, 32] * epochs:
        x, y = X[start : start + 16], Y[start : start + 16]
        n = len(x)
        for _ in range(replays):
            if norm == "linf":
                perturbed = np.clip(x + np.clip(delta[:n], -EPSILON, EPSILON), 0, 1)
            else:
                change = np.clip(x + delta[:n], 0, 1) - x
                size = np.sqrt((change**2).sum((1, 2, 3), keepdims=True))
                perturbed = x + change * np.minimum(1, EPSILON / size.clip(1e-9))
            perturbed = tf.constant(perturbed)
            with tf.GradientTape() as tape:
                tape.watch(perturbed)
                logits = net(perturbed, training=True)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
            *gradients, ascent = tape.gradient(loss, [*(w.value for w in weights), perturbed])
            ascent = ascent.numpy()
            if norm == "l2":
                ascent /= np.sqrt((ascent**2).sum((1, 2, 3), keepdims=True))
            ascent = np.sign(ascent) if norm == "linf" else ascent
            delta[:n] = perturbed.numpy() - x + step * ascent
            for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                velocities[i] = 0.9 * velocities[i] - 0.2 * gradient.numpy()
                weight.assign_add(velocities[i])
        # The stored perturbation is projected on the ball and the pixel range of this batch.
        delta[:n] = objectives.build(
            {"name": "free", "norm": norm, "epsilon": EPSILON}
        ).start_batch(tf.constant(x), tf.constant(delta[:n])) - tf.constant(x)
    return net.get_weights(), delta


@pytest.mark.parametrize(
    ("norm", "replays", "step"), [("linf", 4, EPSILON), ("linf", 1, 0.03), ("l2", 3, 0.04)]
)
def test_fit_equals_the_plain_loop(norm, replays, step):
    spec = f"free:norm={norm},epsilon={EPSILON},replays={replays},step_size={step}"
    model = robust(spec)
    model.fit(batches(), epochs=2, verbose=0)  # the last of three batches is a short one
    weights, delta = plain_loop(norm, replays, step, epochs=2)
    trained = [w for w in model.net.trainable_variables if w.name != "scores"]
    assert int(model.optimizer.iterations) == 2 * 3 * replays
    for one, other in zip(trained, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model._perturbation, delta, atol=1e-6)
    assert np.abs(delta).max() > 0.02


def test_step_size_defaults_to_epsilon():
    free = objectives.build("free:epsilon=0.25")
    x = tf.constant([[0.5, 0.9, 0.5]])
    gradient = tf.constant([[3.0, 1e-9, -2.0]])
    moved = free.update_perturbed(x, x, gradient)
    np.testing.assert_allclose(moved, [[0.75, 1.0, 0.25]])
    again = free.update_perturbed(x, moved, -gradient)
    np.testing.assert_allclose(again, [[0.5, 0.75, 0.5]], atol=1e-7)
    # The update stays in the ball, even if gradients are NaN or infinite.
    np.testing.assert_allclose(free.update_perturbed(x, moved, gradient), moved)
    overflowed = tf.constant([[np.nan, np.inf, -np.inf]])
    np.testing.assert_allclose(free.update_perturbed(x, moved, overflowed), moved)
    other = tf.constant([[0.9, 0.1, 0.0]])
    np.testing.assert_allclose(
        free.start_batch(other, moved - x), [[1.0, 0.2, 0.0]], atol=1e-7
    )  # the next batch starts from it
    l2_free = objectives.build("free:norm=l2,epsilon=0.25")
    np.testing.assert_allclose(
        l2_free.update_perturbed(x, x, tf.constant([[3.0, 0.0, 4.0]])),
        [[0.65, 0.9, 0.7]],
        rtol=1e-5,
    )


def test_stored_perturbation_stays_in_ball_and_pixel_range():
    model = robust()
    model.fit(X[:16], Y[:16], batch_size=16, shuffle=False, epochs=3, verbose=0)
    delta = np.array(model._perturbation)
    assert np.abs(delta).max() <= EPSILON + 1e-7
    assert np.abs(delta).max() > EPSILON / 2
    assert (X[:16] + delta).min() >= -1e-7 and (X[:16] + delta).max() <= 1 + 1e-7


class RecordedFree(Free):
    """Free training that records progress and learning rate of every step."""

    def __call__(self, model, x, y, context, perturbed=None):
        optimizer, rows = RECORD
        rows.append((float(context.progress), float(optimizer.learning_rate)))
        return super().__call__(model, x, y, context, perturbed)


RECORD = []


def test_schedule_and_progress_reach_their_ends():
    model = robust(RecordedFree(epsilon=EPSILON, replays=3), run_eagerly=True)
    RECORD[:] = model.optimizer, []
    pipeline = hydra_tf.HydraCallback(0.5, 2, 1, 1, warmup=0.2)
    model.fit(batches(), epochs=4, verbose=0, callbacks=[pipeline])
    rows = np.array(RECORD[1])
    assert len(rows) == 4 * 3 * 3
    first = 0
    for length, peak in ((2, 0.2), (1, 0.2), (1, 0.02)):
        phase = rows[first : first + 9 * length]
        first += 9 * length
        steps = 9 * length
        np.testing.assert_allclose(phase[:, 0], np.arange(steps) / steps, rtol=1e-6)
        # All replays of a batch use the learning rate of that batch.
        rates = [SCHEDULES["cosine"](i, 3 * length, peak, 0.2) for i in range(3 * length)]
        np.testing.assert_allclose(phase[:, 1], np.repeat(rates, 3), rtol=1e-6)
        assert phase[-1, 1] == pytest.approx(
            SCHEDULES["cosine"](3 * length - 1, 3 * length, peak, 0.2)
        )


def test_masks_are_updated_in_the_prune_phase_only(monkeypatch):
    from hydra_tf.training.step import robust_step as step

    calls, refresh = [], step.refresh_masks
    monkeypatch.setattr(step, "refresh_masks", lambda *given: (calls.append(1), refresh(*given)))
    model = robust(run_eagerly=True)
    hydra_tf.set_density(model, 0.3)
    for phase, expected in (("pretrain", 0), ("prune", 3 * 3), ("finetune", 0)):
        calls.clear()
        model.set_phase(phase)
        model.fit(batches(), verbose=0)
        assert len(calls) == expected
    for layer in masked_layers(model):
        scores = np.abs(np.array(layer.scores)).ravel()
        kept = np.argsort(-scores, kind="stable")[: round(0.3 * scores.size)]
        assert np.array_equal(np.flatnonzero(np.array(layer.mask)), np.sort(kept))


@pytest.mark.slow(seconds=12)
def test_backup_and_restore_gives_the_same_bits(tmp_path):
    class PowerCut(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*callbacks):
        model = robust(f"free:epsilon={EPSILON},replays=2")
        pipeline = hydra_tf.HydraCallback(0.3, 1, 2, 0, best_dir=str(tmp_path / "best"))
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        callbacks = [*callbacks, backup, pipeline]
        model.fit(batches(), epochs=3, validation_data=batches(), callbacks=callbacks, verbose=0)
        return values(model)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(PowerCut())
    for one, other in zip(whole, run(), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.slow(seconds=20)
def test_saved_model_continues_training_bit_for_bit(tmp_path):
    model = robust()
    model.fit(batches(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.objective == model.objective
    assert np.array_equal(loaded._perturbation, model._perturbation) and np.any(
        np.array(model._perturbation)
    )
    for one in (model, loaded):
        one.fit(batches(), verbose=0)
    for one, other in zip(values(model), values(loaded), strict=True):
        assert np.array_equal(one, other)


def test_two_replicas_equal_one_device(two_replicas, tmp_path):
    spec = f"free:epsilon={EPSILON},replays=2"
    with two_replicas.scope():
        model = robust(spec)
    single = robust(spec)
    for one in (model, single):
        pipeline = hydra_tf.HydraCallback(0.3, 1, 1)
        data = batches().take(2)  # full batches: of a short one each replica takes half
        one.fit(data, epochs=2, verbose=0, callbacks=[pipeline])
    first, second = (np.array(value) for value in model._perturbation.value.values)
    assert np.array_equal(first, second)
    # The second replica stores rows 8 to 16.
    np.testing.assert_allclose(first, single._perturbation, atol=1e-6)
    assert np.any(first[:8]) and np.any(first[8:])
    for layer, alone in zip(masked_layers(model), masked_layers(single), strict=True):
        assert np.array_equal(layer.mask, alone.mask)
        np.testing.assert_allclose(layer.scores, alone.scores, rtol=1e-4, atol=1e-6)
    model.fit(batches(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded._perturbation, model._perturbation.value.values[0])


def test_free_training_learns_and_validates_against_pgd():
    data = hydra_tf.data.load("digits", batch_size=64)
    net = hydra_tf.models.build("mnist_cnn", input_shape=(8, 8, 1), num_classes=10, seed=0)
    model = robust("free:epsilon=0.05,replays=2", net=net)
    assert model.validation_measure.attack == hydra_tf.attacks.build("pgd:epsilon=0.05,steps=20")
    history = model.fit(
        data.train, epochs=3, validation_data=data.validation, verbose=0,
        callbacks=[hydra_tf.HydraCallback(0.3, 2, 1, learning_rate=0.1)],
    ).history  # fmt: skip
    assert history["val_robust_accuracy"][-1] > 0.5


def test_other_objectives_store_no_perturbation():
    model = robust("natural")
    model.fit(batches(), verbose=0)
    assert model._perturbation is None and model.replays == 1
    assert [v.name for v in model.non_trainable_variables if "carried" in v.name] == []


def test_unsupported_data_are_refused():
    def endless():
        while True:
            yield X[:16], Y[:16]

    with pytest.raises(ValueError, match=r"carries a perturbation .* the data are a generator"):
        robust().fit(endless(), steps_per_epoch=1, verbose=0)
    model = robust()
    assert model.train_on_batch(X[:8], Y[:8], return_dict=True)["loss"] > 0
    with pytest.raises(ValueError, match="more images than the first batch"):
        model.train_on_batch(X[:16], Y[:16])
    with pytest.raises(ValueError, match=r"carries a perturbation.*call fit"):
        robust().train_on_checked_batch(X[:16], Y[:16])
    model = robust()
    model.fit(batches(), verbose=0)
    model.fit(batches(8), verbose=0)
    with pytest.raises(ValueError, match="more images than the first batch") as error:
        model.fit(batches(32), verbose=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("free:epsilon=-1", "epsilon must be a finite number of at least 0, not -1"),
        ("free:replays=0", "replays must be at least 1, not 0"),
        ("free:step_size=0", "step_size must be a positive number, not 0"),
    ],
)
def test_bad_parameters_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        objectives.build(spec)
