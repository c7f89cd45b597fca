"""Networks and arguments that bounds refuse, and the error messages."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from hydra_tf import bounds


class Squared(keras.layers.Layer):
    def call(self, x):
        return x * x


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def stack(*added, shape=(4, 4, 2)):
    return keras.Sequential([keras.Input(shape), *added])


def flat(*added):
    return stack(*added, shape=(3,))


def in_training_mode():
    images = keras.Input([3])
    return keras.Model(images, layers.Dense(2)(layers.Dropout(0.5)(images, training=True)))


def plus_one():
    images = keras.Input([3])
    return keras.Model(images, layers.Dense(2)(images + 1.0))


def pairs_samples_with_positions():
    images = keras.Input([3])
    x = layers.Dense(2)(layers.Reshape((3, 1))(images)) + layers.Dense(2)(images)
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))


def ends_in(operation):
    images = keras.Input([3])
    return keras.Model(images, operation(layers.Dense(2)(images)))


def two_inputs():
    one, two = keras.Input([3]), keras.Input([3])
    return keras.Model([one, two], layers.Dense(2)(layers.Add()([one, two])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: flat(layers.Dense(2), Squared(name="square"), layers.Dense(2)),
            r'There is no bound rule for layer "square" \(Squared\); supported are .*Dense.*',
        ),
        (
            lambda: flat(keras.Sequential([layers.Dense(2, "tanh", name="inner")])),
            'no bound rule for the activation "tanh" of layer "inner"; supported are linear, relu',
        ),
        (
            lambda: flat(layers.Dense(4, "sigmoid", name="hidden"), layers.Dense(2)),
            'There is no bound rule for the activation "sigmoid" of layer "hidden"; supported are',
        ),
        (
            lambda: flat(layers.Dense(4), layers.Softmax(name="hidden"), layers.Dense(2)),
            r'There is no bound rule for layer "hidden" \(Softmax\); supported are the layers',
        ),
        (
            lambda: flat(layers.Dense(2, "softmax", name="last")),
            'Layer "last" turns logits into probabilities, but bounds are on logits; remove',
        ),
        (
            lambda: flat(layers.Dense(2), layers.Softmax(name="last")),
            'Layer "last" turns logits into probabilities',
        ),
        (
            lambda: flat(layers.Dense(2), layers.Activation("sigmoid", name="last")),
            'Layer "last" turns logits into probabilities',
        ),
        (
            lambda: flat(layers.ReLU(max_value=6.0, name="six"), layers.Dense(2)),
            r'layer "six" \(ReLU\) with a max_value or threshold',
        ),
        (
            lambda: flat(layers.LeakyReLU(negative_slope=2.0), layers.Dense(2)),
            "negative_slope=2.0; it must lie in",
        ),
        (
            lambda: flat(layers.Dense(2, dtype="mixed_bfloat16", name="half")),
            'Layer "half" computes in bfloat16, but bounds hold for float32',
        ),
        (in_training_mode, r"\(Dropout\) is called with training, which is not supported"),
        (plus_one, "is called with numbers as well as tensors"),
        (
            lambda: ends_in(keras.ops.log_softmax),
            r'Layer "log_softmax.*" turns logits into probabilities',
        ),
        (
            lambda: flat(layers.Dense(2, keras.ops.log_sigmoid, name="last")),
            'Layer "last" turns logits into probabilities',
        ),
        (
            lambda: ends_in(lambda x: keras.activations.relu(x, max_value=6)),
            r"\(ReLU\) with a max_value or threshold",
        ),
        (
            lambda: ends_in(lambda x: keras.ops.leaky_relu(x, -0.5)),
            "negative_slope=-0.5; it must lie in",
        ),
        (
            pairs_samples_with_positions,
            r"pairs the samples .* shapes are \(None, 3, 2\) and \(None, 2\); reshape .*Add",
        ),
        (two_inputs, "need a model of one input and one output; .* has 2 and 1"),
        (
            lambda: keras.Sequential(
                [keras.Input([None, None, 2]), layers.GlobalAveragePooling2D(), layers.Dense(2)]
            ),
            "pools images of unknown size",
        ),
        (lambda: flat(layers.Dense(1)), r"at least 2 classes, not \(None, 1\)"),
        (lambda: stack(layers.Conv2D(2, 1)), r"logits of shape \[batch, classes\]"),
        (lambda: keras.Sequential([layers.Dense(2)]), "not built yet"),
    ],
)
def test_networks_without_bounds_are_refused(make, message):
    net = make()
    shape = (4, 4, 2) if net.built and len(net.inputs[0].shape) == 4 else (3,)
    for method in ("ibp", "crown"):
        with pytest.raises(ValueError, match=message):
            bounds.bound(net, np.full((1, *shape), 0.5), 0.1, method)


def test_subclassed_models_and_functions_are_refused():
    net = Subclassed()
    net(np.zeros((1, 3)))
    with pytest.raises(TypeError, match="Subclassed is a subclassed model, whose layers cannot"):
        bounds.bound(net, np.zeros((1, 3)), 0.1)
    inside = keras.Sequential([keras.Input([3]), net])
    with pytest.raises(TypeError, match="Subclassed is a subclassed model"):
        bounds.bound(inside, np.zeros((1, 3)), 0.1)
    with pytest.raises(TypeError, match="functional or Sequential Keras model, not function"):
        bounds.bound(lambda x: x, np.zeros((1, 3)), 0.1)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"epsilon": -0.1}, ValueError, "epsilon must be a finite number of at least 0, not -0.1"),
        ({"epsilon": np.nan}, ValueError, "epsilon must be a finite number"),
        ({"epsilon": tf.constant(-1.0)}, ValueError, "at least 0, not -1"),
        ({"epsilon": 8}, ValueError, r"epsilon=8 is larger than the range .*\[0, 1\]; .*8/255"),
        ({"epsilon": 3, "clip": (0, 2)}, ValueError, r"larger than the range .*\[0, 2\]"),
        ({"epsilon": "8/255"}, TypeError, "epsilon must be a number such as 8/255, not '8/255'"),
        ({"epsilon": None}, TypeError, "epsilon must be a number such as 8/255, not None"),
        ({"epsilon": [0.1, 0.2]}, TypeError, "epsilon must be a number"),
        ({"epsilon": np.full(2, 0.1)}, ValueError, r"a scalar tensor, not of shape \(2,\)"),
        ({"epsilon": tf.fill([2], 0.1)}, ValueError, r"a scalar tensor, not of shape \(2,\)"),
        ({"clip": 1}, ValueError, r"clip must be \(smallest, largest\) .* not 1"),
        ({"clip": "ab"}, ValueError, r"clip must be \(smallest, largest\) .* not ab"),
        (
            {"method": len, "chunk": 3},
            TypeError,
            "chunk cannot be given to a callable that is not a",
        ),
        ({"clip": (1, 0)}, ValueError, r"clip must be \(smallest, largest\) .* not \(1, 0\)"),
        ({"x": np.full((2, 3), 1.5)}, ValueError, r"in \[0, 1\], but they span \[1.5, 1.5\]"),
        ({"x": np.full((2, 3), np.nan)}, ValueError, r"NaN, .* must be numbers in \[0, 1\]"),
        ({"x": np.full((2, 3), np.inf)}, ValueError, "has a pixel that is infinite"),
        (
            {"x": [[0.5] * 3, [0, np.nan, 9]], "clip": None},
            ValueError,
            "Image 1, counted from 0, has a pixel that is NaN, but pixel values must be numbers;",
        ),
        ({"x": np.full((2, 3), 1.00001)}, ValueError, r"they span \[1\.0000100\d, 1\.00001"),
        (
            {"x": np.full((2, 3), -1.00001), "clip": (-1, 1)},
            ValueError,
            r"in \[-1, 1\], but they span \[-1\.0000100.*; scale them, or pass their range",
        ),
        ({"epsilon": 1.0000001}, ValueError, r"epsilon=1.0000001 is larger than the range"),
        ({"x": np.zeros((2, 4))}, ValueError, r"images of shape \(3,\), not \(4,\)"),
        ({"x": np.zeros((2, 3, 1))}, ValueError, r"images of shape \(3,\), not"),
        ({"y": [0, 2]}, ValueError, r"from 0 to 1, .* but they span \[0, 2\]"),
        ({"y": [-1, 0]}, ValueError, r"they span \[-1, 0\]"),
        ({"y": [0]}, ValueError, "There are 2 images but 1 labels"),
        ({"y": [[0] * 3] * 2}, ValueError, r"or one-hot of shape \[batch, 2\], not of .* \(2, 3\)"),
        ({"y": [0.0, 1.0]}, TypeError, "Labels must be whole numbers, not of type float32"),
        ({"method": "crwn"}, ValueError, 'Unknown bound "crwn"; did you mean "crown"'),
        ({"method": "crown:chunks=3"}, ValueError, 'did you mean "chunk"'),
        ({"chunk": -1}, ValueError, "chunk must be at least 0, not -1"),
    ],
)
def test_bad_arguments_are_refused(changed, error, message):
    net = flat(layers.Dense(2))
    arguments = {"x": np.full((2, 3), 0.5), "y": [0, 1], "epsilon": 0.1, **changed}
    with pytest.raises(error, match=message):
        bounds.margin_lower_bound(net, **arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 3), r"one-hot of shape \[batch, 2\], not of shape \(2, 3\)"), ((1,), "2 images but 1 l")],
)
def test_labels_of_a_wrong_shape_are_refused_in_a_graph(shape, message):
    net = flat(layers.Dense(2))

    @tf.function
    def graph(y):
        return bounds.margin_lower_bound(net, tf.fill([2, 3], 0.5), y, 0.1)

    with pytest.raises(ValueError, match=message):
        graph(tf.zeros(shape, tf.int32))


@pytest.mark.parametrize(
    ("clip", "value"), [((0, 1), 1.00000024), ((0, 1), -1e-6), ((-2, 6), 6.000007)]
)
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_pixels_outside_by_rounding_are_clipped(clip, value, method):
    net = flat(layers.Dense(2))
    images = np.array([[0.5, value, 0.25]])
    found = bounds.bound(net, images, 0.1, method, clip)
    expected = bounds.bound(net, np.clip(images, *clip), 0.1, method, clip)
    np.testing.assert_array_equal(found.lower, expected.lower)
    np.testing.assert_array_equal(found.upper, expected.upper)


@pytest.mark.parametrize("clip", [(0, np.inf), (-np.inf, 1)])
def test_half_a_range_is_checked_too(clip):
    net = flat(layers.Dense(2))
    outside = np.array([[0.5, -5.0 if clip[0] == 0 else 5.0, 0.25]])
    with pytest.raises(ValueError, match="pixel values in"):
        bounds.bound(net, outside, 0.1, "ibp", clip)


def test_without_clip_images_are_left_alone():
    net = keras.Sequential([keras.Input([1]), layers.Dense(2, use_bias=False)])
    net.set_weights([np.array([[1.0, -1.0]])])
    for value in (1.00000024, -7.0, 300.0):
        found = bounds.bound(net, [[value]], 0.25, clip=None, rounding=False)
        np.testing.assert_array_equal(
            found.lower, np.float32([[np.float32(value) - 0.25, -(np.float32(value) + 0.25)]])
        )
