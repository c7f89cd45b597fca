"""The bound of the cross-entropy: numbers by hand, samples of the ball, and equal gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from hydra_tf import bounds
from hydra_tf.bounds import propagation

EPSILON = 0.05


def robust_loss(net, x, y, beta, fusion, epsilon=EPSILON):
    return bounds.cross_entropy_upper_bound(net, x, y, tf.constant(epsilon), beta, fusion)


def of_margins(net, x, y, beta):
    """Return the losses and differences of the weighted mean of separately computed margins."""
    ibp, crown = (
        bounds.margin_lower_bound(net, x, y, EPSILON, method, rounding=False, chunk=0)
        for method in ("ibp", "crown_ibp")
    )
    worst = -(beta * crown + (1 - beta) * ibp)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=worst), worst


def with_gradients(net, compute):
    """Return losses, differences, and the gradients of the mean loss."""
    with tf.GradientTape() as tape:
        losses, worst = compute()
        loss = tf.reduce_mean(losses)
    return losses, worst, *tape.gradient(loss, [w.value for w in net.trainable_variables])


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def dense_net(scale=1.0):
    rng = np.random.default_rng(0)
    hidden = keras.layers.Dense(8, activation="relu")
    net = keras.Sequential([keras.Input([6]), hidden, keras.layers.Dense(4)])
    net.set_weights([scale * rng.normal(size=weight.shape) for weight in net.get_weights()])
    return net, rng.random((5, 6)).astype("float32"), np.arange(5) % 4


@pytest.fixture
def without_tracing():
    """Compute eagerly, since tracing takes longer than one call on a small network."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("beta", [0.3, 0.0])
@pytest.mark.parametrize("name", ["normed", "residual", "masked"])
def test_without_fusion_it_equals_separate_bounds_with_their_gradients(
    build_net, batch, without_tracing, name, beta
):
    net, (x, y) = build_net(name), batch
    found = with_gradients(net, lambda: robust_loss(net, x, y, beta, fusion=False))
    assert_close(found, with_gradients(net, lambda: of_margins(net, x, y, beta)))


@pytest.mark.parametrize("fusion", [False, True])
def test_a_graph_has_the_same_losses_and_gradients(fusion):
    net, x, y = dense_net()

    def run(beta):
        return with_gradients(net, lambda: robust_loss(net, x, y, beta, fusion))

    graph = tf.function(run, autograph=False)
    for beta in (0.0, 0.5):
        assert_close(graph(tf.constant(beta)), run(tf.constant(beta)))


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.3, 0.0])
@pytest.mark.parametrize("fusion", [False, True])
@pytest.mark.parametrize("name", ["plain", "normed", "residual", "masked", "pooled"])
def test_graphs_of_networks_have_the_same_gradients(build_net, batch, name, fusion, beta):
    net, (x, y) = build_net(name), batch

    def run():
        return with_gradients(net, lambda: robust_loss(net, x, y, beta, fusion))

    assert_close(tf.function(run, autograph=False)(), run())


def test_beta_0_passes_nothing_backwards_to_the_input(build_net, batch, monkeypatch):
    passes = []
    lower_bounds = propagation.BoundedGraph.lower_bounds

    def recorded(self, rows, value, to_input):
        passes.append((rows.shape[1], to_input))
        return lower_bounds(self, rows, value, to_input)

    monkeypatch.setattr(propagation.BoundedGraph, "lower_bounds", recorded)
    net, (x, y) = build_net("plain"), batch
    robust_loss(net, x, y, 0.0, fusion=True)
    assert passes == [(3, False)]
    passes.clear()
    robust_loss(net, x, y, 0.5, fusion=True)
    # Intervals of the three differences from both sides, and one row to the input.
    assert passes == [(3, False), (3, False), (1, True)]


def test_fused_by_hand():
    # f = (0, 2x) and the label 0: d = 2x is in [0, 1] for x in [0, 1/2]. The chord of exp(d)
    # there, 1 + (e - 1) d, is largest at d = 1, and 1 + exp(1) is exact.
    net = keras.Sequential([keras.Input([1]), keras.layers.Dense(2, use_bias=False)])
    net.set_weights([np.array([[0.0, 2.0]])])
    losses, worst = robust_loss(net, [[0.25]], [0], 1.0, True, epsilon=0.25)
    assert float(losses[0]) == pytest.approx(np.log(1 + np.e), rel=1e-6)
    assert worst.numpy().tolist() == [[0.0, 1.0]]
    # A third logit -2x: its d is in [-1, 0], with the chord 1 + (1 - 1/e) d. The sum of both
    # chords is 2 + (e - 1) 2x - (1 - 1/e) 2x, largest at x = 1/2, where it is e + 1/e. Bounds of
    # each difference give 1 + e + 1 instead.
    net = keras.Sequential([keras.Input([1]), keras.layers.Dense(3, use_bias=False)])
    net.set_weights([np.array([[0.0, 2.0, -2.0]])])
    fused, _ = robust_loss(net, [[0.25]], [0], 1.0, True, epsilon=0.25)
    separate, _ = robust_loss(net, [[0.25]], [0], 1.0, False, epsilon=0.25)
    assert float(fused[0]) == pytest.approx(np.log(1 + np.e + 1 / np.e), rel=1e-6)
    assert float(separate[0]) == pytest.approx(np.log(2 + np.e), rel=1e-6)


@pytest.mark.parametrize("name", ["normed", "residual", "pooled"])
@pytest.mark.parametrize("epsilon", [0.001, 0.1])
def test_fused_is_between_the_sampled_loss_and_that_of_ibp(build_net, batch, name, epsilon):
    net, (x, y) = build_net(name), batch
    fused = robust_loss(net, x, y, 1.0, True, epsilon)[0].numpy()
    ibp = robust_loss(net, x, y, 0.0, True, epsilon)[0].numpy()
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (64, *x.shape)) * rng.choice([1.0, 0.5], (64, 1, 1, 1, 1))
    points = np.clip(x + epsilon * signs, 0, 1).astype("float32")
    logits = net(points.reshape(-1, *x.shape[1:])).numpy().reshape(64, len(x), -1)
    sampled = logsumexp(logits, axis=-1) - logits[:, np.arange(len(x)), y]
    assert (sampled.max(0) <= fused + 1e-4).all()
    assert (fused <= ibp).all() and (fused < ibp).any()


def test_radius_0_is_the_cross_entropy(build_net, batch):
    net, (x, y) = build_net("normed"), batch
    losses = robust_loss(net, x, y, 1.0, True, epsilon=0.0)[0]
    logits = net(x).numpy()
    expected = logsumexp(logits, axis=1) - logits[np.arange(4), y]
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
def test_fused_is_finite_on_constant_and_confident_networks(scale):
    net, x, y = dense_net(scale)
    with tf.GradientTape() as tape:
        losses = robust_loss(net, x, y, 0.5, True)[0]
    for tensor in (losses, *tape.gradient(losses, net.trainable_variables)):
        assert np.isfinite(tensor).all()
    assert (losses.numpy() >= 0).all()


def test_an_empty_batch_has_no_losses(build_net, batch):
    net, (x, y) = build_net("plain"), batch
    losses, worst = robust_loss(net, x[:0], y[:0], 0.5, True)
    assert (losses.shape, worst.shape) == ((0,), (0, 4))


def test_bad_input(build_net, batch):
    net, (x, y) = build_net("plain"), batch
    with pytest.raises(ValueError, match="There are 4 images but 3 labels"):
        tf.function(lambda: robust_loss(net, x, y[:3], 0.5, True), autograph=False)()
    with pytest.raises(ValueError, match="epsilon must be"):
        robust_loss(net, x, y, 0.5, True, epsilon=-1.0)
