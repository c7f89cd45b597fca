"""The smoothing objective against NumPy, and its validation measure."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

import hydra_tf
from hydra_tf import objectives
from hydra_tf.core.types import StepContext

RNG = np.random.default_rng(8)
X = RNG.random((12, 6)).astype("float32")
Y = RNG.integers(0, 3, 12).astype("int32")
KERNEL = RNG.normal(size=(6, 3)).astype("float32") * 2
SEED = tf.constant([4, 9], tf.int32)
SIGMA = 0.3


def step_context(seed=SEED):
    return StepContext(seed, tf.constant(1.0))


def linear_net():
    net = keras.Sequential([keras.Input([6]), keras.layers.Dense(3, use_bias=False)])
    net.set_weights([KERNEL])
    return net


def noisy_images(seed=SEED, x=X):
    return x + SIGMA * tf.random.stateless_normal(x.shape, seed).numpy()


def by_hand(variant, beta):
    clean = log_softmax((X @ KERNEL).astype("float64"), axis=1)
    noisy = log_softmax((noisy_images() @ KERNEL).astype("float64"), axis=1)
    rows = np.arange(12)
    if variant == "gaussian":
        return -noisy[rows, Y].mean()
    kl = (np.exp(clean) * (clean - noisy)).sum(1)
    return -clean[rows, Y].mean() + beta * kl.mean()


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("variant", "beta"), [("stability", 6.0), ("stability", 0.5), ("gaussian", 6.0)]
)
def test_loss_and_logits_equal_numpy(variant, beta, graph):
    net = linear_net()
    objective = objectives.build(f"smoothing:sigma={SIGMA},beta={beta},variant={variant}")

    def terms():
        result = objective(net, tf.constant(X), tf.constant(Y), step_context())
        return result.loss, result.logits, result.adversarial_logits

    loss, logits, smoothed = tf.function(terms)() if graph else terms()
    assert float(loss) == pytest.approx(by_hand(variant, beta), rel=1e-5)
    np.testing.assert_allclose(logits, X @ KERNEL, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(smoothed, noisy_images() @ KERNEL, rtol=1e-4, atol=1e-5)


def test_gradient_equals_finite_differences():
    net = linear_net()
    objective = objectives.build(f"smoothing:sigma={SIGMA},beta=2")
    weight = net.trainable_variables[0]
    with tf.GradientTape() as tape:
        loss = objective(net, tf.constant(X), tf.constant(Y), step_context()).loss
    gradient = tape.gradient(loss, weight.value).numpy()
    for i, j in ((0, 0), (3, 1), (5, 2)):
        losses = []
        for change in (0.01, -0.01):
            kernel = KERNEL.copy()
            kernel[i, j] += change
            net.set_weights([kernel])
            losses.append(
                float(objective(net, tf.constant(X), tf.constant(Y), step_context()).loss)
            )
        assert gradient[i, j] == pytest.approx((losses[0] - losses[1]) / 0.02, rel=0.02, abs=2e-3)


class Spy:
    """A model that records its calls and images."""

    def __init__(self, net):
        self.net, self.calls, self.seen = net, [], []

    def __call__(self, x, training=None):
        self.calls.append((training, tuple(x.shape)))
        self.seen.append(np.array(x))
        return self.net(x, training=training)


def test_calls_of_the_model_and_unclipped_noise():
    spy = Spy(linear_net())
    x = np.tile(X, (100, 1))
    y = np.tile(Y, 100)
    objectives.build("smoothing:sigma=0.5")(spy, tf.constant(x), tf.constant(y), step_context())
    assert spy.calls == [(True, (2400, 6))]
    benign, noisy = np.split(spy.seen[0], 2)
    assert np.array_equal(benign, x)
    assert (noisy - x).std() == pytest.approx(0.5, rel=0.03)
    assert (noisy - x).mean() == pytest.approx(0.0, abs=0.02)
    assert noisy.min() < -0.5 and noisy.max() > 1.5
    spy = Spy(linear_net())
    spec = "smoothing:variant=gaussian"
    objectives.build(spec)(spy, tf.constant(X), tf.constant(Y), step_context())
    assert spy.calls == [(False, (12, 6)), (True, (12, 6))]


@pytest.mark.parametrize("variant", ["stability", "gaussian"])
def test_batchnorm_statistics_are_updated_once_per_step(variant):
    net = keras.Sequential(
        [keras.Input([6]), keras.layers.BatchNormalization(), *linear_net().layers]
    )
    objective = objectives.build(f"smoothing:sigma={SIGMA},variant={variant}")
    objective(net, tf.constant(X), tf.constant(Y), step_context())
    seen = np.concatenate([X, noisy_images()]) if variant == "stability" else noisy_images()
    np.testing.assert_allclose(net.layers[0].moving_mean, 0.01 * seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(net.layers[0].moving_variance, 0.99 + 0.01 * seen.var(0), rtol=1e-4)


def test_validation_measures_accuracy_under_noise(tmp_path):
    model = hydra_tf.RobustModel(linear_net(), f"smoothing:sigma={SIGMA}", seed=5)
    model.compile("sgd", metrics=["accuracy"])
    y = np.argmax(X @ KERNEL, 1)
    y[:2] = (y[:2] + 1) % 3
    noisy = noisy_images([5, 0])
    correct = (np.argmax(X @ KERNEL, 1) == y) & (np.argmax(noisy @ KERNEL, 1) == y)
    assert 0 < correct.mean() < 10 / 12
    metrics = model.evaluate(X, y, verbose=0, return_dict=True)
    assert metrics["robust_accuracy"] == pytest.approx(correct.mean())
    assert metrics["accuracy"] == pytest.approx(10 / 12)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.objective == model.objective
    assert loaded.validation_measure == model.validation_measure
    assert loaded.evaluate(X, y, verbose=0, return_dict=True) == pytest.approx(metrics)


def test_best_epoch_is_chosen_under_noise():
    model = hydra_tf.RobustModel(linear_net(), f"smoothing:sigma={SIGMA}")
    model.compile(keras.optimizers.SGD(0.5), metrics=["accuracy"])
    history = model.fit(
        X, Y, epochs=6, validation_data=(X, Y), verbose=0,
        callbacks=[hydra_tf.HydraCallback(0.5, 2, 2, 2)],
    ).history  # fmt: skip
    assert {"robust_accuracy", "val_robust_accuracy"} <= set(history)
    again = model.evaluate(X, Y, verbose=0, return_dict=True)["robust_accuracy"]
    assert again == pytest.approx(max(history["val_robust_accuracy"][4:]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smoothing:sigma=0", "sigma must be a finite number above 0, not 0"),
        ("smoothing:sigma=-0.25", "sigma must be a finite number above 0, not -0.25"),
        ("smoothing:sigma=inf", "sigma must be a finite number above 0, not inf"),
        ("smoothing:beta=-1", "beta must be a finite number of at least 0, not -1"),
        ("smoothing:sigmma=1", '"sigmma"; did you mean "sigma"'),
    ],
)
def test_bad_parameters_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        objectives.build(spec)


def test_unknown_variants_are_refused():
    with pytest.raises(TypeError, match="must be one of stability, gaussian"):
        objectives.build("smoothing:variant=trades")
    with pytest.raises(ValueError, match='variant must be "stability" or "gaussian", not \'trades'):
        type(objectives.build("smoothing"))(variant="trades")
