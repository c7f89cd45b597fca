"""Properties of registered attacks that the contract does not cover, with few steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import attacks
from tests.contracts.attack_contract import run, short

NAMES = attacks.ATTACKS.names()
# AutoAttack runs attacks that are tested alone as well.
AUTOATTACK = pytest.param("autoattack", marks=pytest.mark.slow(seconds=8))
ALONE_OR_SLOW = [name for name in NAMES if name != "autoattack"] + [AUTOATTACK]
OURS = [name for name in NAMES if name != "cleverhans_pgd"]


@pytest.mark.parametrize("name", ["apgd", "fab", "fmn", "square", "autoattack"])
def test_misclassified_images_are_returned_unchanged(trained, name):
    net, x, y = trained
    wrong = y.copy()
    wrong[::2] = (np.argmax(net(x, training=False), -1)[::2] + 1) % 10
    found = run(short(name, "linf", 0.1), net, x, wrong)
    assert np.array_equal(found[::2], x[::2])
    assert not np.array_equal(found[1::2], x[1::2])


@pytest.mark.parametrize("name", ["apgd", "fab", "fmn", "square", AUTOATTACK])
def test_no_gradient_flows_through_the_images(trained, name):
    net, x, y = trained
    attack = short(name, "linf", 0.1)
    with tf.GradientTape() as tape:
        images = tf.constant(x[:4])
        tape.watch(images)
        found = tf.function(lambda z: attack(net, z, y[:4]))(images)
    assert tape.gradient(found, images) is None


@pytest.mark.parametrize("name", OURS)
def test_a_model_without_gradients_is_no_error(name):
    # Rounding hides them all; only random search finds its way. Class 1 from a mean of 0.6.
    def model(z, training=False):
        steps = tf.reduce_mean(tf.round(z * 255) / 255, axis=1, keepdims=True)
        return tf.concat([tf.fill(tf.shape(steps), 0.6), steps], 1)

    x, y = np.full((5, 8), 0.55, "float32"), np.zeros(5, "int32")
    found = run(short(name, "linf", 0.1, queries=300), model, x, y)
    broken = np.argmax(model(found), -1) == 1
    assert broken.all() == (name in ("square", "autoattack"))


def softmax_in_disguise(net):
    # The last operation is a division, so that only the outputs give it away.
    images = keras.Input([8, 8, 1])
    positive = keras.ops.exp(net(images))
    return keras.Model(images, positive / keras.ops.sum(positive, axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_unsuitable_models_and_batches_are_refused(trained, name):
    net, x, y = trained
    attack = short(name, "linf", 0.1)
    softmax = keras.Sequential([keras.Input([8, 8, 1]), net, keras.layers.Softmax()])
    logarithm = keras.Sequential([softmax_in_disguise(net), keras.layers.Lambda(tf.math.log)])
    cases = [
        (softmax, x, y, "ends in probabilities"),
        (softmax_in_disguise(net), x, y, "outputs probabilities"),
        (logarithm, x, y, "logarithms of probabilities"),
        (net, x, np.eye(11)[y], r"one-hot of shape \[batch, 10\]"),
        (net, x, y + 10, "from 0 to 9"),
        (net, x, y - 10, "from 0 to 9"),
        (net, x, y[1:], "64 images but 63 labels"),
        (net, x[..., 0], y, r"of shape \(8, 8, 1\), but the data have images of shape \(8, 8\)"),
        (net, 255 * x, y, "divide 8-bit images by 255"),
    ]
    for model, images, labels, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            attack(model, images, labels)


@pytest.mark.parametrize("name", NAMES)
def test_a_radius_in_grey_levels_is_refused(name):
    with pytest.raises(ValueError, match="write 8/255 for 8 grey levels, not 8"):
        attacks.build(f"{name}:epsilon=8")
    assert attacks.build(f"{name}:norm=l2,epsilon=8").epsilon == 8


@pytest.mark.parametrize("head", ["mixed_float16", "float32"])
@pytest.mark.parametrize("name", ALONE_OR_SLOW)
def test_half_precision_masks_no_gradient(name, head):
    # Logits (-20 x, 20 x) at x = 0.5: the other class has e^-20, which float16 takes for 0.
    dense = keras.layers.Dense(1, use_bias=False, dtype="mixed_float16")
    net = keras.Sequential([keras.Input([1]), dense, keras.layers.Dense(2, dtype=head)])
    net.set_weights([np.array([[4.0]]), np.array([[-5.0, 5.0]]), np.zeros(2)])
    x = np.full((2, 1), 0.5, "float32")
    # FAB and FMN look for the boundary, which is at 0.
    epsilon, nearest = (0.5, 0.0) if name in ("fab", "fmn", "autoattack") else (0.1, 0.4)
    found = short(name, "linf", epsilon, step_size=epsilon / 2)(net, x, [1, 1]).numpy()
    np.testing.assert_allclose(found, np.full((2, 1), nearest), atol=2e-3)
