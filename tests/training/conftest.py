"""Batches of digits for the tests of the training loop."""

import numpy as np
import pytest
import tensorflow as tf

import hydra_tf


@pytest.fixture(scope="module")
def batches_from():
    x, y = (
        np.concatenate(arrays) for arrays in zip(*hydra_tf.data.load("digits").train, strict=True)
    )

    def batches(epoch, step):
        orders = [np.random.default_rng(epoch + i).permutation(150) for i in range(10)]
        data, *others = [
            tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(32) for order in orders
        ]
        for other in others:
            data = data.concatenate(other)
        return data.skip(step)

    return batches


@pytest.fixture(scope="module")
def validation():
    return hydra_tf.data.load("digits", batch_size=64).validation
