"""What is true of every attack."""

import re

import keras
import numpy as np
import tensorflow as tf

from hydra_tf import attacks
from hydra_tf.attacks.base import perturbed
from hydra_tf.attacks.gradients import FOUND, MISSING, UNUSED
from hydra_tf.attacks.inference import inference
from hydra_tf.core.randomness import stateless_seed

NORMS = ("linf", "l2")
SETTINGS = {"steps": 5, "targets": 2, "queries": 30, "restarts": 2}
BALLS = [((12,), 0.02), ((8, 6), 0.0), ((6, 5, 3), 0.3), ((4, 3, 3, 2), 3.0)]
# Share of epsilon within which every sample of a linear model must be broken. The Linf optimum
# is one sign step; random search in the L2 ball has to find the direction of the weights.
REACH = {"linf": 0.95, "l2": 0.5}
EPSILON = {"linf": 0.1, "l2": 0.2}
RANDOM = re.compile("Random|Normal|Multinomial|Gamma|Poisson|Binomial")
DERIVES_SEEDS = re.compile("FullInt|RandomGet")  # of tf.random.fold_in and of generators


def short(name, norm, epsilon, registry=attacks.ATTACKS, **settings):
    """Return a registered attack with few steps, as far as it has such parameters."""
    settings = {**SETTINGS, **settings}
    known = {key: settings[key] for key in registry.parameters(name) if key in settings}
    return registry.build({"name": name, "norm": norm, "epsilon": epsilon, **known})


def run(attack, model, x, y, seed=0):
    """Return the images of an attack without a graph, which is faster for few steps."""
    return attack.perturb(
        inference(model), tf.constant(x), tf.constant(y, tf.int32), stateless_seed(seed)
    ).numpy()


def lengths(change, norm):
    flat = np.reshape(np.asarray(change, "float64"), (len(change), -1))
    return np.linalg.norm(flat, ord=np.inf if norm == "linf" else 2, axis=1)


def linear(shape, classes=4):
    weights = np.random.default_rng(1).normal(size=(int(np.prod(shape)), classes))

    def model(x, training=False):
        return tf.reshape(x, [tf.shape(x)[0], len(weights)]) @ weights.astype("float32")

    return model


def wavy(x, training=False):
    """Return logits with many local maxima, so that the result depends on the start."""
    return linear(x.shape[1:])(tf.sin(300.0 * x))


def check_ball(build):
    """Check ball, pixel range, shape and dtype.

    Args:
        build: maps norm and epsilon to an attack.
    """
    rng = np.random.default_rng(0)
    for norm in NORMS:
        for shape, radius in BALLS:
            epsilon = min(radius, 1.0) if norm == "linf" else radius
            attack = build(norm, epsilon)
            x = rng.random((9, *shape)).astype("float32")
            x[:3] = np.round(x[:3])  # pixels at the ends of their range
            model = linear(shape)
            y = np.argmax(model(x), -1)
            y[:2] = (y[:2] + 1) % 4
            x_adv = run(attack, model, x, y)
            assert x_adv.shape == x.shape, f"{attack} changes the shape"
            assert x_adv.dtype == np.float32, f"{attack} returns {x_adv.dtype}"
            assert ((x_adv >= 0) & (x_adv <= 1)).all(), f"{attack} leaves [0, 1]"
            limit = epsilon * (1 + 1e-6) + 2e-7
            assert (lengths(x_adv - x, norm) <= limit).all(), f"{attack} leaves the ball"


def check_seed(attack):
    """Check that random numbers follow from the seed of the call, not from a global generator.

    An attack that draws no random numbers may give the same images for all seeds.

    Returns:
        Whether the attack draws random numbers.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(0.3, 0.7, (9, 6, 6, 1)).astype("float32")
    y = np.argmax(wavy(x), -1).astype("int32")
    tf.random.set_seed(1)
    first = run(attack, wavy, x, y, seed=5)
    tf.random.set_seed(99)
    again = run(attack, wavy, x, y, seed=5)
    assert np.array_equal(first, again), f"{attack} ignores its seed"
    random = _draws_random_numbers(attack, x, y)
    if random:
        other = run(attack, wavy, x, y, seed=6)
        assert not np.array_equal(first, other), f"{attack} is the same for all seeds"
    return random


def _draws_random_numbers(attack, x, y):
    graph = (
        tf.function(lambda seed: attack.perturb(wavy, tf.constant(x), tf.constant(y), seed))
        .get_concrete_function(stateless_seed(0))
        .graph.as_graph_def()
    )
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    return any(RANDOM.search(n.op) and not DERIVES_SEEDS.search(n.op) for n in nodes)


def check_inference_mode(attack):
    """Check that the model is called in inference mode and that no weight changes."""
    flags = []
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(5), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    net = keras.Sequential([keras.Input([6]), *layers])
    before = [weight.numpy() for weight in net.weights]

    def model(x, training=None):
        flags.append(training)
        return net(x, training=training)

    x = np.random.default_rng(0).random((4, 6)).astype("float32")
    y = np.argmax(net(x, training=False), -1)
    attack.perturb(inference(model), tf.constant(x), tf.constant(y, tf.int32), stateless_seed(0))
    for old, new in zip(before, net.weights, strict=True):
        assert np.array_equal(old, new), f"{attack} changes the weights of the model"
    assert flags, f"{attack} does not call the model"
    assert all(flag is False for flag in flags), f"{attack} calls the model in training mode"


def check_empty_batch(attack):
    """Check that no images give no images, also if the graph is traced for any batch size."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(2, 3, activation="relu"), keras.layers.Flatten()]
    net = keras.Sequential([keras.Input([4, 4, 1]), *layers, keras.layers.Dense(3)])
    signature = [tf.TensorSpec([None, 4, 4, 1]), tf.TensorSpec([None], tf.int32)]

    @tf.function(input_signature=signature)
    def any_size(x, y):
        return attack.perturb(inference(net), x, y, stateless_seed(0))

    for size in (0, 3):
        x, y = tf.fill([size, 4, 4, 1], 0.5), tf.zeros([size], tf.int32)
        shape = any_size(x, y).shape
        assert shape == x.shape, f"{attack} returns images of shape {shape} for {size} images"


def check_linear_model(build):
    """Check an attack where the smallest perturbation is known in closed form.

    Two classes and no pixel near the ends of its range: a sample can be broken exactly if
    w . x + c is less than epsilon times the dual norm of w away from 0.

    Args:
        build: maps norm and epsilon to an attack.
    """
    for norm, epsilon in EPSILON.items():
        rng = np.random.default_rng(2)
        weights = rng.normal(size=8).astype("float32")
        dual = np.linalg.norm(weights, ord=1 if norm == "linf" else 2)
        distance = epsilon * np.linspace(0.02, 2, 24)
        noise = rng.uniform(-0.05, 0.05, (24, 8))
        shift = ((epsilon - distance) * dual - noise @ weights) / np.sum(weights**2)
        x = (0.5 + noise + shift[:, None] * weights).astype("float32")
        y = np.zeros(24, "int32")

        def model(x, training=False, *, w=weights[:, None], bias=-epsilon * dual):
            score = tf.matmul(x - 0.5, w) + bias
            return tf.concat([tf.zeros_like(score), score], 1)

        attack = build(norm, epsilon)
        broken = np.argmax(model(run(attack, model, x, y)), -1) != y
        assert not broken[distance > 1.001 * epsilon].any(), f"{attack} breaks the unbreakable"
        assert broken[distance < REACH[norm] * epsilon].all(), (
            f"{attack} misses samples within {REACH[norm]:g} * epsilon"
        )


def check_gradients_are_counted(attack):
    """Check that an attack tells for which samples it found a gradient, if it uses gradients."""
    x = np.random.default_rng(0).uniform(0.3, 0.7, (6, 8)).astype("float32")

    for flat in (False, True):

        def rounds(x, training=False, flat=flat):
            return linear((8,))(tf.round(255.0 * x) / 255.0 if flat else x)

        y = np.argmax(rounds(x), -1)
        found = perturbed(
            attack, rounds, tf.constant(x), tf.constant(y, tf.int32), stateless_seed(0)
        ).gradients
        assert found is not None, f"{attack} does not tell which gradients it found"
        expected = (MISSING if flat else FOUND) if attack.uses_gradients else UNUSED
        assert found.dtype == tf.int32, f"{attack} returns {found.dtype}"
        assert found.numpy().tolist() == [expected] * 6, f"{attack} counts gradients wrongly"
