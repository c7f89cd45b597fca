"""Checks of models and data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.checks.batches import check_use, first_batch
from hydra_tf.checks.models import check_logits, require_logits
from hydra_tf.core.pixels import clipped_pixels, pixels_valid

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
    advice = "remove this layer, or its activation"
    with pytest.raises(ValueError, match=f"ends in probabilities .* need logits; {advice}"):
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
    with pytest.raises(
        ValueError, match=r"logits of at least 2 classes; for two classes by one logit z"
    ):
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
        (IMAGES * np.nan, [0, 1, 2], "Image 0, counted from 0, has a pixel that is NaN, but"),
        (
            IMAGES + np.array([0, np.nan, 3])[:, None, None, None],
            [0, 1, 2],
            r"Image 1, counted from 0, has a pixel that is NaN, .* numbers in \[0, 1\]",
        ),
        (
            np.where(np.arange(12).reshape(3, 2, 2, 1) == 11, -np.inf, IMAGES),
            [0, 1, 2],
            "Image 2, counted from 0, has a pixel that is infinite",
        ),
        (IMAGES + 0.500002, [0, 1, 2], r"they span \[1.000002, 1.000002\]"),
        (IMAGES - 0.500002, [0, 1, 2], r"they span \[-2e-06, -2e-06\]"),
        (IMAGES.astype(str), [0, 1, 2], "Images must be numbers, not of type <U"),
        (IMAGES, [0, 1, 3], r"from 0 to 2, one for each of the model's 3 logits, .* \[0, 3\]"),
        (IMAGES, [-1, 1, 2], r"span \[-1, 2\]"),
        (IMAGES, [0, 0.5, 1], "must be whole numbers"),
        (IMAGES, [0, np.nan, 1], "whole numbers from 0 to 2, but one of them is NaN"),
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
        return NET(x, training=training) - 2.0

    check_use(model, IMAGES[:0], np.zeros(0, int))
    for _ in range(3):
        check_use(model, IMAGES, np.array([0, 1, 2]))
    assert calls == [3]
    with pytest.raises(ValueError, match="from 0 to 2"):
        check_use(model, IMAGES, np.array([0, 1, 3]))


@pytest.mark.parametrize("value", [1.00000024, 1 + 1e-6, -1e-6, -1e-30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_outside_by_rounding_are_clipped(value, dtype):
    images = np.where(np.arange(12).reshape(3, 2, 2, 1) == 5, value, IMAGES).astype(dtype)
    check_use(NET, images, np.array([0, 1, 2]))
    valid, _ = pixels_valid(tf.cast(images, tf.float32))
    assert bool(valid)
    expected = np.clip(images, 0, 1).astype("float32")
    np.testing.assert_array_equal(clipped_pixels(images), expected)
    assert clipped_pixels(images).dtype == tf.float32


def test_clipping_keeps_the_bits_of_other_pixels():
    pixels = np.random.default_rng(0).random(1000, np.float32)
    pixels = np.concatenate([pixels, np.float32([0, 1, 2e-38, 1 - 2**-24])])
    assert clipped_pixels(pixels).numpy().tobytes() == pixels.tobytes()


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, b"are NaN"), (np.inf, b"infinite"), (1.00001, b"outside"), (-2e-6, b"outside")],
)
def test_bad_pixels_are_named_in_a_graph(value, words):
    valid, sentence = tf.function(pixels_valid)(tf.constant([[0.5, value], [0.25, 7.0]]))
    assert not bool(valid)
    assert words in sentence.numpy()


class Squash(keras.layers.Layer):
    """A sigmoid under another name."""

    def call(self, x):
        return keras.ops.sigmoid(x)


class SquashedDense(keras.layers.Dense):
    """A dense layer that applies a sigmoid itself."""

    def call(self, x):
        return keras.ops.sigmoid(super().call(x))


class SquashedModel(keras.Model):
    """A subclassed model that ends in a sigmoid."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x, training=None):
        return keras.ops.sigmoid(self.dense(x))


FOUR = np.random.default_rng(0).random((6, 4)).astype("float32")
LABELS = np.arange(6) % 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: ends_in(L.Dense(3), Squash(name="squash")),
        lambda: ends_in(L.Dense(3), Squash(name="squash"), L.Reshape((3,))),
        lambda: ends_in(ends_in(L.Dense(3), Squash(name="squash"))),
        lambda: ends_in(L.Dense(3, lambda x: 1 / (1 + keras.ops.exp(-2 * x)), name="squash")),
        lambda: ends_in(L.Dense(3), L.Activation(lambda x: x / 0.5), Squash(name="squash")),
        lambda: ends_in(L.Dense(3), Squash(name="squash", dtype="float16")),
    ],
    ids=["layer", "reshaped", "nested", "activation", "after activation", "half"],
)
def test_sigmoids_under_another_name_are_refused(make):
    with pytest.raises(ValueError, match=r'ends in probabilities \(layer "squash"\)'):
        check_use(make(), FOUR, LABELS)


def by_hand():
    images = keras.Input([4])
    return keras.Model(images, 1 / (1 + keras.ops.exp(-L.Dense(3)(images))))


@pytest.mark.parametrize(
    "make",
    [lambda: ends_in(SquashedDense(3)), SquashedModel, by_hand],
    ids=["weights", "subclassed", "by hand"],
)
def test_outputs_that_look_like_those_of_a_sigmoid_are_warned_about(make, caplog):
    model = make()
    with caplog.at_level("WARNING", logger="absl"):
        for _ in range(2):
            check_use(model, FOUR, LABELS)
    (warning,) = caplog.messages
    assert "lie in [0, 1] even for very large inputs, as those of a sigmoid do" in warning


def biased(*layers):
    net = ends_in(*layers)
    net.layers[-1].bias.assign([0.2, 0.5, 0.7])
    return net


@pytest.mark.parametrize(
    "make",
    [
        lambda: biased(L.Dense(3, kernel_initializer="zeros")),
        lambda: biased(L.Dense(3, kernel_initializer=keras.initializers.RandomNormal(0, 1e-3))),
        lambda: biased(L.Dense(9, "sigmoid"), L.Dense(3)),
        lambda: biased(L.Dense(9, "tanh"), L.Dense(3)),
        lambda: biased(L.Dense(3, "relu", kernel_initializer="zeros")),
        lambda: biased(L.Rescaling(1 / 9), L.Dense(3, kernel_initializer="zeros")),
    ],
    ids=["constant", "small", "hidden sigmoid", "hidden tanh", "relu", "rescaled"],
)
def test_logits_in_the_unit_interval_are_not_mistaken_for_probabilities(make, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        check_use(make(), FOUR / 100, LABELS)
    assert caplog.messages == []
