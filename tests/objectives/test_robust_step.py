"""The training step, called without ``fit``."""

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


def step(net, objective, optimizer, variables, refresh=False, index=0):
    optimizer.build(net.trainable_variables)
    run = tf.function(
        lambda: robust_step(
            net, objectives.build(objective), optimizer, variables, tf.constant(X),
            tf.constant(Y), step_context(0, 0, index, 10), refresh,
        ).loss
    )  # fmt: skip
    return float(run())


def test_sgd_step_by_hand():
    net = linear_net()
    kernel_gradient, bias_gradient = by_hand(X)
    loss = step(net, "natural", keras.optimizers.SGD(0.5), net.trainable_variables)
    probabilities = softmax(X @ KERNEL + BIAS, axis=1)[np.arange(4), Y]
    assert loss == pytest.approx(-np.log(probabilities).mean(), rel=1e-6)
    weights = net.get_weights()
    np.testing.assert_allclose(weights[0], KERNEL - 0.5 * kernel_gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(weights[1], BIAS - 0.5 * bias_gradient, rtol=1e-5, atol=1e-7)


def test_adversarial_sgd_step_by_hand():
    # One ascent step of size 0.1 from x: x' = clip(x + 0.1 sign(W (p - e_y))), then CE at x'.
    net = linear_net()
    residual = softmax(X @ KERNEL + BIAS, axis=1) - np.eye(3)[Y]
    x_adv = np.clip(X + 0.1 * np.sign(residual @ KERNEL.T), 0, 1)
    kernel_gradient, _ = by_hand(x_adv)
    objective = "pgd:epsilon=0.1,steps=1,step_size=0.1,start=zero"
    step(net, objective, keras.optimizers.SGD(0.5), net.trainable_variables)
    expected = KERNEL - 0.5 * kernel_gradient
    np.testing.assert_allclose(net.get_weights()[0], expected, rtol=1e-4, atol=1e-6)


def test_other_variables_do_not_change():
    net = linear_net()
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9, weight_decay=0.1)
    step(net, "trades:epsilon=0.1,steps=2", optimizer, [net.layers[0].bias])
    kernel, bias = net.get_weights()
    assert np.array_equal(kernel, KERNEL)
    assert not np.array_equal(bias, BIAS)


def test_score_step_by_hand_and_refreshed_mask():
    # Straight-through: dL/ds = dL/d(w m) * w * sign(s); then the mask is refreshed.
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
    expected_mask = np.zeros(6)
    expected_mask[np.argsort(-np.abs(expected).ravel(), kind="stable")[:3]] = 1
    assert np.array_equal(np.array(layer.mask).ravel(), expected_mask)
    assert not np.array_equal(layer.mask, mask)  # the large rate changes the mask
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


def test_weight_regularisers_are_added_to_the_loss():
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


def test_seeds_of_steps_differ_and_repeat():
    keys = [
        (seed, phase, step)
        for seed in (0, 1, 2**31 - 1)
        for phase in range(3)
        for step in range(40)
    ]
    seeds = {key: tuple(step_context(*key, 40).seed.numpy().tolist()) for key in keys}
    assert len(set(seeds.values())) == len(keys)
    repeated = {key: tuple(step_context(*key, None).seed.numpy().tolist()) for key in keys[:50]}
    assert all(seeds[key] == seed for key, seed in repeated.items())
    # The same within a graph, where the step is the optimizer's counter.
    graph = tf.function(lambda step: step_context(1, 2, step, 40).seed)
    assert tuple(graph(tf.constant(7, tf.int64)).numpy().tolist()) == seeds[(1, 2, 7)]
    assert step_context(0, 0, 0, 1).seed.shape == (2,)


@pytest.mark.parametrize(
    ("step", "total", "progress"),
    [(0, 8, 0.0), (2, 8, 0.25), (8, 8, 1.0), (12, 8, 1.0), (3, None, 1.0)],
)
def test_progress_is_the_share_of_steps_done(step, total, progress):
    assert float(step_context(0, 1, step, total).progress) == progress
