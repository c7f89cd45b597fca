"""CROWN-IBP and MixTrain: schedules by hand, losses in NumPy, and training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

import hydra_tf
from hydra_tf import bounds, objectives
from hydra_tf.core.randomness import slice_of_batch
from hydra_tf.core.types import StepContext
from hydra_tf.objectives.validation import Verification

RNG = np.random.default_rng(3)
X = RNG.random((12, 6)).astype("float32")
Y = RNG.integers(0, 3, 12).astype("int32")
SEED = tf.constant([4, 9], tf.int32)


def step_context(progress, seed=SEED):
    return StepContext(seed, tf.constant(progress, tf.float32))


def linear_net():
    """Return a linear net, with exact bounds: w.x - epsilon * |w|_1 for each margin."""
    net = keras.Sequential([keras.Input([6]), keras.layers.Dense(3, use_bias=False)])
    net.set_weights([RNG.normal(size=(6, 3)).astype("float32")])
    return net


def relu_net(seed=0):
    layers = [keras.Input([6]), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    net = keras.Sequential(layers)
    rng = np.random.default_rng(seed)
    net.set_weights([rng.normal(size=w.shape).astype("float32") for w in net.get_weights()])
    return net


def worst_logits(net, epsilon, x=X, y=Y):
    """Return the largest f_j - f_y over the ball within [0, 1], per sample and class."""
    kernel = net.get_weights()[0].astype("float64")
    low, high = np.maximum(x - epsilon, 0), np.minimum(x + epsilon, 1)
    slopes = kernel.T[y][:, None] - kernel.T[None]
    return -np.where(slopes > 0, slopes * low[:, None], slopes * high[:, None]).sum(-1)


def cross_entropy(logits, y=Y):
    return -log_softmax(logits.astype("float64"), axis=1)[np.arange(len(y)), y].mean()


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.9])
def test_crown_ibp_on_a_linear_network_equals_numpy(progress, graph):
    net = linear_net()
    spec = "crown_ibp:epsilon=0.2,ramp=0.5,kappa_start=0.8,kappa_end=0.4"
    objective = objectives.build(spec, fusion=False)

    def loss():
        return objective(net, tf.constant(X), tf.constant(Y), step_context(progress)).loss

    share = min(1.0, progress / 0.5)
    kappa = 0.8 - 0.4 * share
    expected = kappa * cross_entropy(X @ net.get_weights()[0])
    expected += (1 - kappa) * cross_entropy(worst_logits(net, 0.2 * share))
    found = tf.function(loss)() if graph else loss()
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("progress", [0.2, 0.5, 1.0])
def test_crown_ibp_mixes_both_bounds_with_beta(progress):
    net = relu_net()
    objective = objectives.build(
        "crown_ibp:epsilon=0.1,ramp=1,beta_start=0.9,beta_end=0.5,fusion=false"
    )
    options = {"epsilon": 0.1 * progress, "rounding": False}
    ibp, crown = (
        bounds.margin_lower_bound(net, X, Y, method=method, **options).numpy()
        for method in ("ibp", "crown_ibp")
    )
    assert np.abs(ibp - crown).max() > 1e-3
    beta = 0.9 - 0.4 * progress
    terms = objective(net, tf.constant(X), tf.constant(Y), step_context(progress))
    np.testing.assert_allclose(
        terms.adversarial_logits, -(beta * crown + (1 - beta) * ibp), rtol=1e-4, atol=1e-5
    )


def test_crown_ibp_mixes_fused_losses_with_beta():
    # With one wrong class, a linear network has exact bounds, fused ones too.
    net = keras.Sequential([keras.Input([6]), keras.layers.Dense(2, use_bias=False)])
    net.set_weights([RNG.normal(size=(6, 2)).astype("float32")])
    y = (Y > 0).astype("int32")
    objective = objectives.build("crown_ibp:epsilon=0.2,ramp=1,kappa_end=0.5,beta_end=0.5")

    found = objective(net, tf.constant(X), tf.constant(y), step_context(0.5)).loss
    expected = 0.75 * cross_entropy(X @ net.get_weights()[0], y)
    expected += 0.25 * cross_entropy(worst_logits(net, 0.1, y=y), y)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_beta_0_is_ibp():
    net = relu_net()
    options = {"epsilon": 0.1, "method": "ibp", "rounding": False}
    expected = -bounds.margin_lower_bound(net, X, Y, **options).numpy()
    for spec, progress in (("beta_start=0", 0.5), ("ramp=0.5", 0.8)):
        objective = objectives.build(f"crown_ibp:epsilon=0.1,{spec}")
        if progress == 0.5:
            assert objective.ramp == 0.5
        found = objective(net, tf.constant(X), tf.constant(Y), step_context(progress))
        np.testing.assert_allclose(found.adversarial_logits, expected, rtol=1e-5, atol=1e-6)


def test_smoothed_epsilon_reaches_the_bound():
    net = linear_net()
    objective = objectives.build(
        "crown_ibp:epsilon=0.2,ramp=1,shape=smoothed,kappa_start=0,fusion=false"
    )
    # A quarter of the way: 0.25^4 / (0.25^4 + 4 * 0.25^3 * 0.75) = 1 / 13 of the radius.
    found = objective(net, tf.constant(X), tf.constant(Y), step_context(0.25)).loss
    assert float(found) == pytest.approx(cross_entropy(worst_logits(net, 0.2 / 13)), rel=1e-5)


@pytest.mark.parametrize(
    ("progress", "alpha"),
    [(0.0, 0.1 / 2.5**3), (0.25, 0.1), (5 / 12, 0.625), (0.7, 0.1 * 2.5**5), (1.0, 50.0)],
)
def test_mixtrain_alpha_by_hand(progress, alpha):
    # The paper's 60 epochs, ramp of 15, growth every 5: epochs 0, 15, 25, 42 and 60.
    found = objectives.build("mixtrain").alpha(step_context(progress))
    assert float(found) == pytest.approx(min(alpha, 50.0), rel=1e-4)


def test_mixtrain_bounds_a_sample_of_the_batch():
    net = linear_net()
    objective = objectives.build("mixtrain:epsilon=0.2,samples=5,share=0.5,ramp=0.25")
    natural = cross_entropy(X @ net.get_weights()[0])
    worst = worst_logits(net, 0.2)
    losses = np.array([cross_entropy(worst[i : i + 1], Y[i : i + 1]) for i in range(12)])
    bounded = []
    for i in range(60):
        found = objective(
            net, tf.constant(X), tf.constant(Y), step_context(0.25, tf.constant([i, 0]))
        )
        robust = float(found.components["robust_loss"])
        assert float(found.loss) == pytest.approx(natural + 0.1 * robust, rel=1e-5)
        bounded += [robust] if robust else []
    # 60 draws of probability 1/2 are outside of 15 to 45 with probability below 1e-4.
    assert 15 <= len(bounded) <= 45
    # The mean of five of the twelve is between those of the five smallest and largest.
    ordered = np.sort(losses)
    assert min(bounded) >= ordered[:5].mean() - 1e-5
    assert max(bounded) <= ordered[-5:].mean() + 1e-5
    assert len({round(value, 5) for value in bounded}) > 10


def test_samples_are_repeated_if_the_batch_is_smaller():
    net = linear_net()
    objective = objectives.build("mixtrain:epsilon=0.1,samples=24,share=1,ramp=0")
    found = objective(net, tf.constant(X), tf.constant(Y), step_context(0.0))
    expected = cross_entropy(worst_logits(net, 0.1))
    assert float(found.components["robust_loss"]) == pytest.approx(expected, rel=1e-5)


def test_verification_equals_the_bound():
    net = linear_net()
    correct = Verification(0.05, "ibp").correct(net, tf.constant(X), tf.constant(Y)).numpy()
    worst = worst_logits(net, 0.05)
    others = np.where(np.eye(3)[Y] > 0, -np.inf, worst)
    assert np.array_equal(correct, others.max(1) < 0)
    assert 0 < correct.sum() < 12
    assert Verification(0.05, "ibp", samples=4).correct(net, X, Y).shape == (4,)
    measure = objectives.build("mixtrain:epsilon=0.05,validation_samples=5").validation_attack()
    assert measure.correct(net, X, Y).shape == (5,)


@pytest.mark.parametrize("method", ["ibp", "symbolic"])
def test_verification_uses_the_first_images_of_the_whole_batch(method):
    net = linear_net()
    measure = Verification(0.05, method, samples=6)
    whole = measure.correct(net, tf.constant(X), tf.constant(Y)).numpy()

    @tf.function
    def correct(first, end):
        with slice_of_batch(first, 12):
            return measure.correct(net, tf.constant(X)[first:end], tf.constant(Y)[first:end])

    slices = [correct(tf.constant(a), tf.constant(b)).numpy() for a, b in ((0, 5), (5, 9), (9, 12))]
    assert [len(values) for values in slices] == [5, 1, 0]
    assert np.array_equal(np.concatenate(slices), whole)


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("spec", ["crown_ibp:epsilon=0.1", "mixtrain:epsilon=0.1,samples=8"])
def test_fit_learns_a_verifiable_network(spec):
    x = np.random.default_rng(0).random((256, 6)).astype("float32")
    y = (x[:, 0] > 0.5).astype("int32") + (x[:, 1] > 0.5).astype("int32")
    far = (np.abs(x[:, :2] - 0.5) > 0.15).all(axis=1)
    x, y = x[far], y[far]
    model = hydra_tf.RobustModel(relu_net(1), spec, seed=0)
    model.compile(keras.optimizers.Adam(0.02), metrics=["accuracy"])
    pipeline = hydra_tf.HydraCallback(
        0.5, 20, 5, 10, learning_rate={"prune": 0.02, "finetune": 0.02}
    )
    history = model.fit(
        x, y, batch_size=8, epochs=pipeline.epochs, validation_data=(x, y),
        callbacks=[pipeline], verbose=0,
    )  # fmt: skip
    after = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)["robust_accuracy"]
    assert after > 0.75  # natural training reaches 0.65
    assert after == pytest.approx(max(history.history["val_robust_accuracy"][25:]), abs=1e-6)


@pytest.mark.parametrize("name", ["crown_ibp", "mixtrain"])
def test_half_precision_networks_are_refused_before_the_first_step(name):
    half = keras.layers.Dense(8, dtype="mixed_float16", name="half")
    net = keras.Sequential([keras.Input([6]), half, keras.layers.Dense(3)])
    model = hydra_tf.RobustModel(net, name)
    model.compile("sgd")
    before = model.get_weights()
    with pytest.raises(ValueError, match='Layer "half" computes in float16, but bounds hold for'):
        model.fit(X, Y, verbose=0)
    assert int(model.optimizer.iterations) == 0
    for value, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, weight)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("crown_ibp:epsilon=-0.1", "epsilon must be"),
        ("crown_ibp:epsilon=8", "larger than the range of pixel values"),
        ("mixtrain:epsilon=2", "larger than the range of pixel values"),
        ("crown_ibp:ramp=1.5", r"share of the phase in \[0, 1\]"),
        ("crown_ibp:shape=steep", "one of linear, smoothed"),
        ("crown_ibp:kappa_end=2", "kappa_end is a share"),
        ("crown_ibp:beta_start=-1", "beta_start is a share"),
        ("mixtrain:samples=0", "samples must be at least 1"),
        ("mixtrain:validation_samples=0", "validation_samples must be at least 1"),
        ("mixtrain:share=0", r"probability in \(0, 1\]"),
        ("mixtrain:growth=0", "growth is a share"),
        ("mixtrain:alpha_max=0", "alpha_max"),
    ],
)
def test_bad_parameters(spec, message):
    with pytest.raises((ValueError, TypeError), match=message):
        objectives.build(spec)
