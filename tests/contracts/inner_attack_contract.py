"""What holds for every objective with every attack that climbs a loss."""

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.attacks.norms import random_start
from hydra_tf.core.randomness import stateless_seed
from tests.contracts.attack_contract import lengths
from tests.contracts.objective_contract import CLASSES, batch, network, step_context

SHARE = 0.25


def check_ramp(objective):
    """Check that the images of an objective stay in the ball of the epsilon that grows.

    Args:
        objective: an adversarial objective whose ramp is 1.
    """
    x, y = batch()
    net = network()
    objective(net, x, y, step_context(progress=SHARE))
    seen = np.concatenate(net.seen).reshape(-1, *x.shape)  # calls of one or more batches
    distances = np.array([lengths(images - x.numpy(), objective.norm) for images in seen])
    epsilon = SHARE * objective.epsilon
    assert distances.max() <= epsilon * (1 + 1e-5) + 1e-6, (
        f"{objective} leaves the ball of its growing epsilon"
    )
    # Of the images that the network is trained on.
    assert distances[-1].max() > 0.5 * epsilon, f"{objective} does not climb"
    assert seen.min() >= 0 and seen.max() <= 1, f"{objective} leaves [0, 1]"


def check_climb(attack):
    """Check the images where the largest loss of a linear model is known in closed form.

    The loss, which is no cross-entropy and does not know the labels, is one logit.
    """
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(8, CLASSES)).astype("float32")
    x = rng.uniform(0.4, 0.6, (5, 8)).astype("float32")
    slope = weights[:, 2]
    direction = np.sign(slope) if attack.norm == "linf" else slope / np.linalg.norm(slope)

    def climb(kind, share=SHARE):
        epsilon = share * attack.epsilon
        return attack.climb(
            lambda images: images @ weights, tf.constant(x), lambda logits: logits[:, 2],
            lambda seed: random_start(tf.constant(x), attack.norm, epsilon, seed, kind),
            stateless_seed(0), tf.constant(share),
        ).numpy()  # fmt: skip

    expected = x + SHARE * attack.epsilon * direction
    np.testing.assert_allclose(
        climb("zero"), expected, atol=1e-6, err_msg=f"{attack} misses the largest loss"
    )
    start = random_start(x, attack.norm, SHARE * attack.epsilon, stateless_seed(0)).numpy()
    assert ((climb("uniform") - start) @ slope > 0).all(), f"{attack} lowers the loss from a start"
    np.testing.assert_array_equal(climb("uniform", 0.0), x, f"{attack} moves in an empty ball")


def check_empty_batch(attack):
    """Check that no images give no images, as for a replica at the end of an epoch."""
    layers = [keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    net = keras.Sequential([keras.Input([4, 4, 1]), *layers])

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1])])
    def any_size(x):
        return attack.climb(net, x, lambda logits: logits[:, 0], lambda _: x, stateless_seed(0))

    x = tf.zeros([0, 4, 4, 1])
    found = any_size(x)
    assert found.shape == x.shape, f"{attack} returns images of shape {found.shape} for none"
