"""Restarts of attacks."""

import tensorflow as tf

from hydra_tf.attacks.restarts import Attempt, attack_repeatedly
from hydra_tf.core.randomness import stateless_seed


def test_small_batches_of_restarts_are_joined():
    # Sample i is broken by attempt i; the number of samples per call and the attempts are recorded.
    calls = []

    def attack(numbers, x, y, _):
        calls.append([numbers.numpy().tolist(), y.numpy().tolist()])
        broken = numbers == y
        return Attempt(x + tf.cast(numbers, tf.float32)[:, None], broken, numbers)

    y = tf.constant([0, 0, 3, 0, 2, 9])
    result = attack_repeatedly(attack, tf.zeros([6, 1]), y, stateless_seed(0), 5)
    assert calls == [
        [[0] * 6, [0, 0, 3, 0, 2, 9]],
        [[1, 1, 1, 2, 2, 2], [3, 2, 9, 3, 2, 9]],  # two attempts on the three that are left
        [[3, 3, 4, 4], [3, 9, 3, 9]],  # three would fit, two are left
    ]
    assert result.broken.numpy().tolist() == [True, True, True, True, True, False]
    # The image of the attempt that broke it, or of the very first.
    assert result.images[:, 0].numpy().tolist() == [0.0, 0.0, 3.0, 0.0, 2.0, 0.0]
    assert result.gradients.numpy().tolist() == [0, 0, 4, 0, 2, 4]  # the largest of its runs
