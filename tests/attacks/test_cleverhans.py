"""CleverHans 4.0 as the independent judge, on a trained network."""

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from hydra_tf import attacks
from hydra_tf.attacks.ascent import ascend
from hydra_tf.attacks.losses import cross_entropy

ORDER = {"linf": np.inf, "l2": 2}
EPSILON = {"linf": 0.1, "l2": 0.8}


def magnified(labels, logits):
    """Cross-entropy times 1e6: no direction changes, but CleverHans floors the length of an L2
    gradient at 1e-6 and all but stops where the network is confident; ours goes on.
    """
    return 1e6 * tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def judge(net, x, y, norm, epsilon, step_size, steps, loss_fn=None):
    return projected_gradient_descent(
        lambda z: net(z, training=False), tf.constant(x), epsilon, step_size, steps, ORDER[norm],
        loss_fn=loss_fn, clip_min=0.0, clip_max=1.0, y=y,
    ).numpy()  # fmt: skip


def loss_gradient_lengths(net, x, y):
    with tf.GradientTape() as tape:
        tape.watch(x := tf.constant(x))
        loss = tf.reduce_sum(cross_entropy(y, net(x, training=False)))
    return np.linalg.norm(tape.gradient(loss, x).numpy().reshape(len(y), -1), axis=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("steps", "share"), [(1, 1.0), (3, 0.5), (10, 0.25), (20, 0.1)])
def test_ascent_equals_cleverhans_from_the_same_start(trained, norm, steps, share):
    net, x, y = trained
    epsilon = EPSILON[norm]
    expected = judge(net, x, y, norm, epsilon, share * epsilon, steps, magnified)
    # Where CleverHans's floor is not felt, its plain cross-entropy gives the same images.
    plain = judge(net, x, y, norm, epsilon, share * epsilon, steps)
    steep = loss_gradient_lengths(net, x, y) > 1e-4
    assert steep.sum() > 32
    np.testing.assert_allclose(plain[steep], expected[steep], rtol=0, atol=1e-5)
    found = ascend(
        lambda z: net(z, training=False), tf.constant(x), tf.constant(x),
        lambda z: cross_entropy(y, z), norm=norm, epsilon=epsilon, step_size=share * epsilon,
        steps=steps,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # The comparison says something only where the attack moved and the box was felt.
    assert np.abs(expected - x).max() > 0.5 * epsilon / (1 if norm == "linf" else 4)
    assert ((expected == 0) | (expected == 1)).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_equals_cleverhans(trained, norm):
    net, x, y = trained
    expected = fast_gradient_method(
        lambda z: net(z, training=False), x, EPSILON[norm], ORDER[norm], loss_fn=magnified,
        clip_min=0.0, clip_max=1.0, y=y,
    )  # fmt: skip
    found = attacks.build("fgsm", norm=norm, epsilon=EPSILON[norm])(net, x, y)
    # The loss of very confident predictions is saturated, which CleverHans does not notice.
    logits = np.sort(net(x), axis=1)
    unsure = logits[:, -1] - logits[:, -2] < 15
    assert unsure.mean() > 0.9
    np.testing.assert_allclose(found[unsure], expected[unsure], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_registered_attack_is_cleverhans_itself(trained, norm):
    net, x, y = trained
    epsilon = EPSILON[norm]
    kwargs = {"norm": norm, "epsilon": epsilon, "steps": 5, "step_size": epsilon / 4}
    found = attacks.build({"name": "cleverhans_pgd", **kwargs})(net, x, y)
    expected = judge(net, x, y, norm, epsilon, epsilon / 4, 5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    # The default step is Madry's rule, cut to the radius that CleverHans insists on.
    short = attacks.build({"name": "cleverhans_pgd", **kwargs, "steps": 2, "step_size": None})
    expected = judge(net, x, y, norm, epsilon, epsilon, 2)
    np.testing.assert_allclose(short(net, x, y), expected, rtol=0, atol=1e-6)


def test_cleverhans_start_and_limits(trained):
    net, x, y = trained
    assert np.array_equal(attacks.build("cleverhans_pgd:epsilon=0.0")(net, x, y), x)
    assert np.array_equal(attacks.build("cleverhans_pgd:epsilon=0.1,steps=0")(net, x, y), x)
    random = attacks.build("cleverhans_pgd:epsilon=0.1,steps=0,random_start=true")(net, x, y)
    moved = np.abs(random - x)[(x > 0.1) & (x < 0.9)]
    assert 0.04 < moved.mean() < 0.06  # half the radius
    with pytest.raises(ValueError, match=r"at most epsilon \(0.1\), not 0.2"):
        attacks.build("cleverhans_pgd:epsilon=0.1,step_size=0.2")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_our_pgd_is_at_least_as_strong_as_cleverhans(trained, norm):
    net, x, y = trained
    epsilon = EPSILON[norm] / 2
    kwargs = {"norm": norm, "epsilon": epsilon, "steps": 10, "step_size": epsilon / 4}
    theirs = attacks.build({"name": "cleverhans_pgd", **kwargs})(net, x, y)
    ours = attacks.build({"name": "pgd", "start": "zero", **kwargs})(net, x, y)
    fooled = [np.argmax(net(z, training=False), -1) != y for z in (theirs, ours)]
    assert not (fooled[0] & ~fooled[1]).any()
    assert 0.1 < fooled[1].mean() < 1
