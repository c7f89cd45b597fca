"""Scores are trained at their worst perturbation, as in S2AP."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import hydra_tf
from hydra_tf import objectives
from hydra_tf.sparsity.model import masked_layers, refresh_masks
from hydra_tf.training import Checkpoints, LoopOptions, StepOptions, train
from hydra_tf.training.step.phases import PHASES, trained_variables
from hydra_tf.training.step.robust_step import robust_gradients, robust_step, step_context
from tests.training.loops import (
    STEPS,
    FaultAfter,
    StopError,
    assert_same,
    make_model,
    phases,
    weights_of,
)

X = np.array([[0.5, 0.25], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0]], "float32")
Y = np.array([0, 1, 2, 1], "int32")
KERNEL = np.array([[0.5, -0.25, 0.125], [1.0, 0.75, -0.5]], "float32")
CONTEXT = (3, 1, 0, 10)


def take_step(model, optimizer, objective="natural", x=X, y=Y, **options):
    """Take one step of the prune phase."""
    variables = trained_variables(model, PHASES["prune"])
    optimizer.build(model.trainable_variables)
    run = tf.function(
        lambda: robust_step(
            model, objectives.build(objective), optimizer, variables, tf.constant(x),
            tf.constant(y), step_context(*CONTEXT), refresh=True, **options,
        ).loss
    )  # fmt: skip
    return float(run())


def test_a_step_by_hand():
    def largest(scores):
        mask = np.zeros(6)
        mask[np.argsort(-np.abs(scores).ravel(), kind="stable")[:3]] = 1
        return mask.reshape(2, 3)

    def loss_and_gradient(scores, mask):
        probabilities = softmax((X @ (KERNEL * mask)).astype("float64"), axis=1)
        residual = probabilities - np.eye(3)[Y]
        gradient = X.T @ residual / 4 * KERNEL * np.sign(scores)
        return -np.log(probabilities[np.arange(4), Y]).mean(), gradient

    net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, use_bias=False)])
    net.set_weights([KERNEL])
    net = hydra_tf.mask_model(net)
    hydra_tf.set_density(net, 0.5)
    layer = masked_layers(net)[0]
    scores, mask = np.array(layer.scores, "float64"), np.array(layer.mask)
    loss, gradient = loss_and_gradient(scores, mask)
    share = 0.4
    worst = scores + share * np.linalg.norm(scores) * gradient / np.linalg.norm(gradient)
    assert not np.array_equal(largest(worst), mask)  # the perturbation changes the mask
    expected = scores - 0.5 * loss_and_gradient(worst, largest(worst))[1]

    taken = take_step(net, keras.optimizers.SGD(0.5), score_perturbation=share)
    assert taken == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(layer.scores, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(layer.mask, largest(expected))
    assert np.array_equal(layer.kernel, KERNEL)


def mixed_net(recurrent_dropout=0.0):
    """A net with a wrapped layer, moving averages, random states and penalties."""
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [
            keras.Input([6, 4]),
            keras.layers.LSTM(5, return_sequences=True, recurrent_dropout=recurrent_dropout),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l2"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    net = hydra_tf.mask_model(net)
    hydra_tf.set_density(net, 0.4, allocation="global")
    return net


def images():
    generator = np.random.default_rng(0)
    return generator.random([8, 6, 4], "float32"), generator.integers(0, 3, 8).astype("int32")


def state_of(net):
    masks = {id(layer.mask) for layer in masked_layers(net)}
    return [v for v in net.non_trainable_variables if id(v) not in masks]


@pytest.mark.slow(seconds=10)
def test_the_step_is_that_of_two_passes_with_assigned_scores():
    objective, (x, y), share = "pgd:epsilon=0.1,steps=2", images(), 0.3
    net, other = mixed_net(), mixed_net()
    variables = trained_variables(other, PHASES["prune"])
    scores = {id(layer.scores) for layer in masked_layers(other)}

    @tf.function
    def gradients():
        return robust_gradients(
            other, objectives.build(objective), variables, tf.constant(x), tf.constant(y),
            step_context(*CONTEXT),
        )[1]  # fmt: skip

    before = [np.array(v) for v in state_of(other)]
    first = gradients()
    after = [np.array(v) for v in state_of(other)]
    original = [np.array(v) for v in variables]
    for variable, gradient in zip(variables, first, strict=True):
        if id(variable) in scores:
            norm = np.linalg.norm(variable) / np.linalg.norm(gradient)
            variable.assign(variable + share * norm * gradient)
    refresh_masks(other)
    for variable, value in zip(state_of(other), before, strict=True):
        variable.assign(value)
    second = gradients()
    assert not np.allclose(first[0], second[0], rtol=0.01)
    for variable, value, gradient in zip(variables, original, second, strict=True):
        variable.assign(value - 0.5 * gradient)
    refresh_masks(other)
    for variable, value in zip(state_of(other), after, strict=True):
        variable.assign(value)

    take_step(net, keras.optimizers.SGD(0.5), objective, x, y, score_perturbation=share)
    assert len(after) == 4  # two moving averages and two random states
    assert_same(weights_of_net(net), weights_of_net(other), atol=1e-5)


def weights_of_net(net):
    return {str(i): np.array(v) for i, v in enumerate(net.variables)}


@pytest.mark.slow(seconds=10)
def test_moving_averages_and_random_states_advance_once():
    # Recurrent dropout changes its random state within the loop of the attack.
    (x, y), net, other = images(), mixed_net(0.2), mixed_net(0.2)
    data = ("pgd:epsilon=0.1,steps=2", x, y)
    loss = take_step(net, keras.optimizers.SGD(0.5), *data, score_perturbation=0.3)
    assert loss == take_step(other, keras.optimizers.SGD(0.5), *data)
    for variable, expected in zip(state_of(net), state_of(other), strict=True):
        assert np.array_equal(variable, expected), variable.path


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (keras.optimizers.LossScaleOptimizer, {}),
        (lambda inner: inner, {"options": StepOptions(microbatches=2)}),
        (lambda inner: inner, {"options": StepOptions(microbatches=2, jit_compile=True)}),
    ],
    ids=["loss scaling", "microbatches", "compiled microbatches"],
)
def test_the_way_of_computing_does_not_change_the_step(optimizer, options):
    def after(optimizer, **options):
        model = make_model("natural")
        hydra_tf.set_density(model, 0.3)
        x, y = np.random.default_rng(0).random([8, 8, 8, 1], "float32"), np.arange(8) % 3
        take_step(
            model.net, optimizer, "pgd:epsilon=0.1,steps=2,start=zero", x, y.astype("int32"),
            score_perturbation=0.2, **options,
        )  # fmt: skip
        return weights_of(model)

    expected = after(keras.optimizers.SGD(0.5))
    assert_same(after(optimizer(keras.optimizers.SGD(0.5)), **options), expected, atol=1e-5)


@pytest.mark.slow(seconds=10)
def test_fit_loop_and_resumed_loop_have_the_same_bits(tmp_path, batches_from):
    def plan(share=0.1):
        return phases(1, 1, 1, score_perturbation=share)

    def run(*callbacks, **options):
        model = make_model("natural")
        train(model, batches_from, STEPS, plan(), callbacks=callbacks, verbose=0, **options)
        return weights_of(model)

    fitted, unperturbed = make_model("natural"), make_model("natural")
    for model, share in ((fitted, 0.1), (unperturbed, 0.0)):
        model.fit(
            batches_from(0, 0), epochs=3, steps_per_epoch=STEPS, verbose=0, callbacks=[plan(share)]
        )
    kept = {"checkpoints": Checkpoints(str(tmp_path)), "options": LoopOptions(checkpoint_seconds=0)}
    with pytest.raises(StopError):
        run(FaultAfter(STEPS + 2), **kept)
    assert_same(run(**kept), weights_of(fitted))
    with pytest.raises(AssertionError):
        assert_same(weights_of(unperturbed), weights_of(fitted))
    with pytest.raises(ValueError, match="another run, which differs in: score perturbation"):
        train(make_model("natural"), batches_from, STEPS, plan(0.2), verbose=0, **kept)


@pytest.mark.slow(seconds=10)
def test_two_replicas_equal_one_device(batches_from, two_replicas):
    def run(strategy):
        model = make_model("natural", strategy)
        plan = phases(0, 1, 0, score_perturbation=0.2, allocation="global")
        train(model, batches_from, STEPS, plan, verbose=0)
        return weights_of(model)

    assert_same(run(two_replicas), run(None), atol=2e-4)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"method": "lwm"}, ValueError, "needs a prune phase, but the phases are pretrain, fine"),
        ({"allocation": "learned"}, ValueError, "follows the gradient at the unperturbed scores"),
        ({"score_perturbation": -0.1}, ValueError, "at least 0 and finite, not -0.1"),
        ({"score_perturbation": float("nan")}, ValueError, "at least 0 and finite, not nan"),
        ({"score_perturbation": "much"}, TypeError, "score_perturbation"),
    ],
)
def test_wrong_perturbations_are_refused(options, error, sentence):
    with pytest.raises(error, match=sentence):
        phases(1, 1, 1, **{"score_perturbation": 0.1, **options})
