"""The pure training step under the objectives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import hydra_tf
from hydra_tf import objectives
from hydra_tf.sparsity.model import masked_layers
from hydra_tf.training.step.robust_step import robust_gradients, robust_step, step_context

X = np.array([[0.5, 0.25], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0]], "float32")
Y = np.array([0, 1, 2, 1], "int32")
KERNEL = np.array([[0.5, -0.25, 0.125], [1.0, 0.75, -0.5]], "float32")
BIAS = np.array([0.1, 0.0, -0.1], "float32")


def linear_net():
    net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    net.set_weights([KERNEL, BIAS])
    return net


def by_hand(x, kernel=KERNEL):
    """Gradients of the mean cross-entropy of a linear layer."""
    residual = softmax(x.astype("float64") @ kernel + BIAS, axis=1) - np.eye(3)[Y]
    return x.T @ residual / len(x), residual.mean(0)


def step(net, objective, optimizer, variables, refresh=False, at=0):
    optimizer.build(net.trainable_variables)
    run = tf.function(
        lambda: robust_step(
            net, objectives.build(objective), optimizer, variables, tf.constant(X),
            tf.constant(Y), step_context(0, 0, at, 10), refresh,
        ).loss
    )  # fmt: skip
    return float(run())


def test_sgd_step_by_hand():
    net = linear_net()
    kernel_gradient, bias_gradient = by_hand(X)
    loss = step(net, "natural", keras.optimizers.SGD(0.5), net.trainable_variables)
    probabilities = softmax(X @ KERNEL + BIAS, axis=1)[np.arange(4), Y]
    assert loss == pytest.approx(-np.log(probabilities).mean(), rel=1e-6)
    found = net.get_weights()
    np.testing.assert_allclose(found[0], KERNEL - 0.5 * kernel_gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[1], BIAS - 0.5 * bias_gradient, rtol=1e-5, atol=1e-7)


def test_adversarial_sgd_step_by_hand():
    # One step of the radius from x: x' = clip(x + 0.1 sign(W (p - e_y))), then CE at x'.
    net = linear_net()
    residual = softmax(X @ KERNEL + BIAS, axis=1) - np.eye(3)[Y]
    x_adv = np.clip(X + 0.1 * np.sign(residual @ KERNEL.T), 0, 1)
    kernel_gradient, _ = by_hand(x_adv)
    objective = "pgd:epsilon=0.1,steps=1,step_size=0.1,start=zero"
    step(net, objective, keras.optimizers.SGD(0.5), net.trainable_variables)
    expected = KERNEL - 0.5 * kernel_gradient
    np.testing.assert_allclose(net.get_weights()[0], expected, rtol=1e-4, atol=1e-6)


def test_variables_left_out_do_not_move():
    net = linear_net()
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9, weight_decay=0.1)
    step(net, "trades:epsilon=0.1,steps=2", optimizer, [net.layers[0].bias])
    kernel, bias = net.get_weights()
    assert np.array_equal(kernel, KERNEL)
    assert not np.array_equal(bias, BIAS)


def test_score_step_by_hand_and_masks_follow():
    # dL/ds = dL/d(w m) * w * sign(s), straight through; then the mask is chosen again.
    net = hydra_tf.mask_model(linear_net())
    hydra_tf.set_density(net, 0.5)
    layer = masked_layers(net)[0]
    scores, mask = np.array(layer.scores), np.array(layer.mask)
    assert mask.sum() == 3
    gradient, _ = by_hand(X, KERNEL * mask)
    rate = 40.0
    step(net, "natural", keras.optimizers.SGD(rate), [layer.scores], refresh=True)
    expected = scores - rate * gradient * KERNEL * np.sign(scores)
    np.testing.assert_allclose(layer.scores, expected, rtol=1e-4, atol=1e-6)
    kept = np.zeros(6)
    kept[np.argsort(-np.abs(expected).ravel(), kind="stable")[:3]] = 1
    assert np.array_equal(np.array(layer.mask).ravel(), kept)
    assert not np.array_equal(layer.mask, mask)  # the large rate did change the choice
    assert np.array_equal(layer.kernel, KERNEL)


def test_masked_weights_get_no_gradient():
    net = hydra_tf.mask_model(linear_net())
    hydra_tf.set_density(net, 0.5)
    layer = masked_layers(net)[0]
    terms, gradients = robust_gradients(
        net, objectives.build("natural"), [layer.kernel], tf.constant(X), tf.constant(Y),
        step_context(0, 0, 0, 1),
    )  # fmt: skip
    expected, _ = by_hand(X, KERNEL * np.array(layer.mask))
    np.testing.assert_allclose(gradients[0], expected * np.array(layer.mask), rtol=1e-4, atol=1e-7)
    assert terms.logits.shape == (4, 3)


def test_weight_regularisers_join_the_loss():
    net = keras.Sequential(
        [keras.Input([2]), keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.25))]
    )
    net.set_weights([KERNEL, BIAS])
    _, (gradient,) = robust_gradients(
        net, objectives.build("natural"), [net.layers[0].kernel], tf.constant(X),
        tf.constant(Y), step_context(0, 0, 0, 1), scale=lambda loss: 2 * loss,
    )  # fmt: skip
    expected = 2 * (by_hand(X)[0] + 0.5 * KERNEL)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_moments_differ_by_seed_phase_and_step_and_repeat():
    places = [
        (seed, phase, at) for seed in (0, 1, 2**31 - 1) for phase in range(3) for at in range(40)
    ]
    seeds = {place: tuple(step_context(*place, 40).seed.numpy().tolist()) for place in places}
    assert len(set(seeds.values())) == len(places)
    again = {
        place: tuple(step_context(*place, None).seed.numpy().tolist()) for place in places[:50]
    }
    assert all(seeds[place] == seed for place, seed in again.items())
    # The same within a graph, where the step is the optimizer's counter.
    graph = tf.function(lambda at: step_context(1, 2, at, 40).seed)
    assert tuple(graph(tf.constant(7, tf.int64)).numpy().tolist()) == seeds[(1, 2, 7)]
    assert step_context(0, 0, 0, 1).seed.shape == (2,)


@pytest.mark.parametrize(
    ("at", "total", "progress"),
    [(0, 8, 0.0), (2, 8, 0.25), (8, 8, 1.0), (12, 8, 1.0), (3, None, 1.0)],
)
def test_progress_is_the_share_of_steps_done(at, total, progress):
    assert float(step_context(0, 1, at, total).progress) == progress
