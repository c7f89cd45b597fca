"""What holds for every registered attack, with few steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf import attacks
from hydra_tf.attacks.inference import inference
from hydra_tf.core.randomness import stateless_seed

SHORT = {"steps": 5, "targets": 2, "queries": 30, "restarts": 2}
NAMES = attacks.ATTACKS.names()
OURS = [name for name in NAMES if name != "cleverhans_pgd"]
NORMS = ("linf", "l2")
BALLS = [((12,), 0.02), ((8, 6), 0.0), ((6, 5, 3), 0.3), ((4, 3, 3, 2), 3.0)]


def short(name, norm, epsilon, **how):
    parameters = attacks.ATTACKS.parameters(name)
    how = {**SHORT, **how}
    given = {key: value for key, value in how.items() if key in parameters}
    return attacks.build({"name": name, "norm": norm, "epsilon": epsilon, **given})


def run(attack, model, x, y, seed=0):
    """The attack op by op: for a few steps that is quicker than to trace a graph first."""
    return attack.perturb(
        inference(model), tf.constant(x), tf.constant(y, tf.int32), stateless_seed(seed)
    )


def length(change, norm):
    flat = np.reshape(np.asarray(change, "float64"), (len(change), -1))
    return np.linalg.norm(flat, ord=np.inf if norm == "linf" else 2, axis=1)


def linear(shape, classes=4):
    weights = np.random.default_rng(1).normal(size=(int(np.prod(shape)), classes))

    def model(z, training=False):
        return tf.reshape(z, [tf.shape(z)[0], len(weights)]) @ weights.astype("float32")

    return model


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_images_stay_in_ball_and_pixel_range_whatever_their_shape(name, norm):
    rng = np.random.default_rng(0)
    for shape, radius in BALLS:
        epsilon = min(radius, 1.0) if norm == "linf" else radius
        x = rng.random((9, *shape)).astype("float32")
        x[:3] = np.round(x[:3])  # pixels at the ends of their range
        model = linear(shape)
        y = np.argmax(model(x), -1)
        y[:2] = (y[:2] + 1) % 4
        found = run(short(name, norm, epsilon), model, x, y).numpy()
        assert found.shape == x.shape
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1
        assert (length(found - x, norm) <= epsilon * (1 + 1e-6) + 2e-7).all()
        if radius > 1:
            assert (np.argmax(model(found), -1) != y).mean() > 0.5


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *((name, norm) for name in ("pgd", "apgd", "fab") for norm in NORMS),
        ("square", "linf"),
        ("autoattack", "linf"),
    ],
)
def test_the_boundary_of_a_linear_model_is_found(name, norm):
    # Two classes and a slack pixel range: broken exactly if w . x + c is less than epsilon
    # times the dual norm of w away from 0.
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(8, 1)).astype("float32")
    x = rng.uniform(0.4, 0.6, (60, 8)).astype("float32")

    def model(z, training=False):
        score = tf.matmul(z, weights) - 0.5 * weights.sum() - 0.5
        return tf.concat([tf.zeros_like(score), score], 1)

    dual = np.abs(weights).sum() if norm == "linf" else np.linalg.norm(weights)
    distance = (-model(x)[:, 1] / dual).numpy()
    epsilon = float(np.median(distance))
    y = np.zeros(60, "int32")
    attack = short(name, norm, epsilon, steps=30, queries=150)
    broken = np.argmax(model(run(attack, model, x, y)), -1) != y
    assert not broken[distance > epsilon * 1.001].any()
    assert broken[distance < epsilon * 0.99].all()
    assert (distance < epsilon * 0.99).sum() > 15


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["apgd", "square"])
def test_everything_random_follows_from_the_seed(trained, name, norm):
    net, x, y = trained
    attack = short(name, norm, {"linf": 0.06, "l2": 0.4}[norm])
    one = run(attack, net, x, y, seed=5).numpy()
    tf.random.set_seed(99)
    assert np.array_equal(one, run(attack, net, x, y, seed=5))
    assert not np.array_equal(one, run(attack, net, x, y, seed=6))


@pytest.mark.parametrize("name", ["apgd", "fab", "square", "autoattack"])
def test_what_is_wrong_already_comes_back_as_it_is(trained, name):
    net, x, y = trained
    wrong = y.copy()
    wrong[::2] = (np.argmax(net(x, training=False), -1)[::2] + 1) % 10
    found = run(short(name, "linf", 0.1), net, x, wrong).numpy()
    assert np.array_equal(found[::2], x[::2])
    assert not np.array_equal(found[1::2], x[1::2])


@pytest.mark.parametrize("name", ["apgd", "fab", "square", "autoattack"])
def test_gradients_and_inference_mode(trained, name):
    net, x, y = trained
    flags = []

    def model(z, training=None):
        flags.append(training)
        return net(z, training=training)

    attack = short(name, "linf", 0.1)
    with tf.GradientTape() as tape:
        images = tf.constant(x[:4])
        tape.watch(images)
        found = tf.function(lambda z: attack(model, z, y[:4]))(images)
    assert tape.gradient(found, images) is None
    assert flags
    assert all(flag is False for flag in flags)


@pytest.mark.parametrize(
    ("name", "norm"), [("apgd", "l2"), ("fab", "linf"), ("fab", "l2"), ("square", "linf")]
)
def test_empty_batches_known_or_met_on_the_way(trained, name, norm):
    net, x, y = trained
    attack = short(name, norm, 0.1)
    # A model of its own, so that the graph is traced for no images.
    assert attack(lambda z, training: net(z), x[:0], y[:0]).shape == (0, 8, 8, 1)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1]), tf.TensorSpec([None], tf.int32)])
    def rest(x, y):
        return attack.perturb(net, x, y, stateless_seed(0))

    assert rest(x[:0], y[:0]).shape == (0, 8, 8, 1)
    assert rest(x[:3], y[:3]).shape == (3, 8, 8, 1)


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
def test_what_cannot_be_attacked_is_refused_in_a_sentence(trained, name):
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
def test_grey_levels_are_no_radius(name):
    with pytest.raises(ValueError, match="write 8/255 for 8 grey levels, not 8"):
        attacks.build(f"{name}:epsilon=8")
    assert attacks.build(f"{name}:norm=l2,epsilon=8").epsilon == 8


@pytest.mark.parametrize("head", ["mixed_float16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_hides_no_gradient(name, head):
    # Logits (-20 x, 20 x) at x = 0.5: the other class has e^-20, which float16 takes for 0.
    dense = keras.layers.Dense(1, use_bias=False, dtype="mixed_float16")
    net = keras.Sequential([keras.Input([1]), dense, keras.layers.Dense(2, dtype=head)])
    net.set_weights([np.array([[4.0]]), np.array([[-5.0, 5.0]]), np.zeros(2)])
    x = np.full((2, 1), 0.5, "float32")
    # FAB looks for the boundary, which is at 0.
    epsilon, nearest = (0.5, 0.0) if name in ("fab", "autoattack") else (0.1, 0.4)
    found = short(name, "linf", epsilon, step_size=epsilon / 2)(net, x, [1, 1]).numpy()
    np.testing.assert_allclose(found, np.full((2, 1), nearest), atol=2e-3)
