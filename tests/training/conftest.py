"""Digits for tests of the loop."""

import numpy as np
import pytest
import tensorflow as tf

import hydra_tf


@pytest.fixture(scope="module")
def batches_from():
    x, y = (np.concatenate(part) for part in zip(*hydra_tf.data.load("digits").train, strict=True))

    def batches(epoch, step):
        order = np.random.default_rng(epoch).permutation(150)
        rest = [np.random.default_rng(epoch + 1 + i).permutation(150) for i in range(9)]
        passes = [
            tf.data.Dataset.from_tensor_slices((x[o], y[o])).batch(32) for o in (order, *rest)
        ]
        whole = passes[0]
        for one in passes[1:]:
            whole = whole.concatenate(one)
        return whole.skip(step)

    return batches


@pytest.fixture(scope="module")
def validation():
    return hydra_tf.data.load("digits", batch_size=64).validation
