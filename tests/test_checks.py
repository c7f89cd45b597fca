"""Checks of models and data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.checks.batches import check_use, first_batch
from hydra_tf.checks.models import check_logits, require_logits

L = keras.layers


def ends_in(*layers):
    return keras.Sequential([keras.Input([4]), *layers])


def functional_softmax():
    inputs = keras.Input([4])
    return keras.Model(inputs, keras.ops.softmax(L.Dense(3)(inputs)))


PROBABILITIES = {
    "activation": lambda: ends_in(L.Dense(3, activation="softmax")),
    "sigmoid": lambda: ends_in(L.Dense(3, activation="sigmoid")),
    "log": lambda: ends_in(L.Dense(3, activation="log_softmax")),
    "tensorflow": lambda: ends_in(L.Dense(3, activation=tf.nn.softmax)),
    "layer": lambda: ends_in(L.Dense(3), L.Softmax()),
    "named": lambda: ends_in(L.Dense(3), L.Activation("softmax")),
    "nested": lambda: ends_in(ends_in(L.Dense(3, activation="softmax"))),
    "operation": functional_softmax,
    "reshaped": lambda: ends_in(L.Dense(3, activation="sigmoid"), L.Reshape((3,)), L.Dropout(0.1)),
    "cast": lambda: ends_in(L.Dense(3), L.Softmax(), L.Activation("linear", dtype="float32")),
    "hard": lambda: ends_in(L.Dense(3, activation="hard_sigmoid")),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_are_refused(name):
    with pytest.raises(ValueError, match=r"ends in probabilities .* need logits; remove the soft"):
        require_logits(PROBABILITIES[name]())


@pytest.mark.parametrize(
    "layers",
    [
        [L.Dense(3)],
        [L.Dense(3, activation="softmax"), L.Dense(3)],
        [L.Dense(3, activation="relu")],
        [L.Dense(3), L.Activation("linear")],
    ],
    ids=range(4),
)
def test_logits_are_accepted(layers):
    assert require_logits(ends_in(*layers)) is None


def test_outputs_that_sum_to_one_are_not_logits():
    with pytest.raises(ValueError, match="every row sums to 1"):
        check_logits([[0.25, 0.75], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"at least 2 classes, not \(1, 1\)"):
        check_logits([[0.25]])
    with pytest.raises(ValueError, match="logarithms of probabilities"):
        check_logits(np.log([[0.25, 0.75], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="every row sums to 1"):
        check_logits(tf.nn.softmax(tf.random.stateless_normal([9, 10], [0, 0], dtype="bfloat16")))
    assert check_logits([[0.25, 0.75], [2.0, 0.0]]) is None
    assert check_logits(np.float32([[0.25, 0.7501]])) is None
    assert check_logits(np.log([[0.25, 0.75], [0.5, 0.4]])) is None
    assert check_logits([[0.0, -50.0], [0.0, -40.0]]) is None  # large, but no log-probabilities
    assert check_logits([[-0.25, 1.25]]) is None


NET = keras.Sequential([keras.Input([2, 2, 1]), L.Flatten(), L.Dense(3)])
IMAGES = np.full((3, 2, 2, 1), 0.5)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 2]),
        np.array([[0], [1], [2]]),
        np.eye(3),
        np.array([0.0, 2.0, 1.0]),
        np.array([True, False, True]),
    ],
    ids=["integers", "column", "one-hot", "whole floats", "booleans"],
)
def test_good_batches_pass(labels):
    assert check_use(NET, IMAGES, labels) is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            np.zeros((3, 4)),
            [0, 1, 2],
            r"takes images of shape \(2, 2, 1\), but the data have images of shape \(4,\)",
        ),
        (np.zeros((3, 2, 3, 1)), [0, 1, 2], r"but the data have images of shape \(2, 3, 1\)"),
        (IMAGES * 255, [0, 1, 2], r"pixel values in \[0, 1\], but they span \[127.5, 127.5\]"),
        (IMAGES - 1, [0, 1, 2], r"they span \[-0.5, -0.5\]"),
        (IMAGES * np.nan, [0, 1, 2], r"they span \[nan, nan\]"),
        (IMAGES.astype(str), [0, 1, 2], "Images must be numbers, not of type <U"),
        (IMAGES, [0, 1, 3], r"from 0 to 2, one for each of the model's 3 logits, .* \[0, 3\]"),
        (IMAGES, [-1, 1, 2], r"span \[-1, 2\]"),
        (IMAGES, [0, 0.5, 1], "must be whole numbers"),
        (IMAGES, [0, np.nan, 1], "must be whole numbers"),
        (IMAGES, ["a", "b", "c"], "Labels must be numbers, not of type <U1"),
        (IMAGES, np.full((3, 3), 1 / 3), "must be one-hot, with a single 1 in each row"),
        (IMAGES, np.ones((3, 3)), "must be one-hot, with a single 1 in each row"),
        (IMAGES, np.zeros((3, 4)), r"one-hot of shape \[batch, 3\], not of shape \(3, 4\)"),
        (IMAGES, np.zeros((3, 1, 1)), r"not of shape \(3, 1, 1\)"),
        (IMAGES, 1, r"not of shape \(\)"),
        (IMAGES, [0, 1], "There are 3 images but 2 labels"),
    ],
)
def test_bad_batches_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        check_use(NET, x, y)


def test_first_batch_of_every_form_of_data():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return IMAGES, np.array([0, 1, 2])

    pairs = tf.data.Dataset.from_tensor_slices((IMAGES, [0, 1, 2])).batch(2)
    for data, size in ((first_batch(pairs), 2), (first_batch(Batches()), 3)):
        np.testing.assert_array_equal(data[0], IMAGES[:size])
        np.testing.assert_array_equal(data[1], range(size))
    assert len(first_batch(IMAGES, np.arange(3), limit=1)[1]) == 1
    assert len(first_batch(IMAGES, np.arange(3))[1]) == 3
    assert first_batch(iter([])) is None
    with pytest.raises(ValueError, match="The dataset is empty"):
        first_batch(pairs.take(0))
    with pytest.raises(ValueError, match="must yield pairs of"):
        first_batch(tf.data.Dataset.from_tensor_slices(IMAGES).batch(2))


def test_several_inputs_or_outputs_are_refused():
    one, two = keras.Input([4]), keras.Input([4])
    heads = [L.Dense(3)(one), L.Dense(3)(one)]
    with pytest.raises(ValueError, match=r"has 2 outputs, but .* one output, the logits"):
        require_logits(keras.Model(one, heads))
    with pytest.raises(ValueError, match="has 2 inputs"):
        require_logits(keras.Model([one, two], L.Add()([one, two])))


def test_one_logit_is_refused_before_labels_are_checked():
    net = keras.Sequential([keras.Input([2, 2, 1]), L.Flatten(), L.Dense(1)])
    with pytest.raises(ValueError, match="at least 2 classes"):
        check_use(net, IMAGES, np.array([0, 1, 2]))


def test_outputs_of_a_model_are_checked_once():
    calls = []

    def model(x, training=None):
        calls.append(len(x))
        return NET(x, training=training)

    check_use(model, IMAGES[:0], np.zeros(0, int))
    for _ in range(3):
        check_use(model, IMAGES, np.array([0, 1, 2]))
    assert calls == [3]
    with pytest.raises(ValueError, match="from 0 to 2"):
        check_use(model, IMAGES, np.array([0, 1, 3]))
