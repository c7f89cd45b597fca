"""Whole networks between Keras 3 and tf_keras: branches, shared and nested layers, masks."""

import keras
import numpy as np
import pytest
from keras import layers

import hydra_tf
from hydra_tf.interop.tfmot import from_tf_keras, import_tf_keras, to_tf_keras


def randomize(net):
    """Set BatchNorm's statistics, scales and offsets to random values."""
    random = np.random.default_rng(0)
    for weight in net.weights:
        if weight.name in ("gamma", "beta", "moving_mean", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))


def images_of(net):
    random = np.random.default_rng(1)
    sizes = [[5 if size is None else size for size in tensor.shape[1:]] for tensor in net.inputs]
    images = [random.random((3, *size), dtype=np.float32) for size in sizes]
    return images if len(images) > 1 else images[0]


def outputs(net, images):
    return [np.asarray(output) for output in keras.tree.flatten(net(images, training=False))]


def check(net, tolerance=1e-6, **options):
    """Check a network in both directions; return both copies."""
    images = images_of(net)
    expected = outputs(net, images)
    there = to_tf_keras(net, **options)
    back = from_tf_keras(there)
    for copy in (there, back):
        for one, other in zip(outputs(copy, images), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    return there, back


@pytest.mark.parametrize(
    ("spec", "shape", "tolerance"),
    [
        ("mnist_cnn", (28, 28, 1), 1e-6),
        ("cnn_large", (9, 9, 3), 1e-6),
        ("wide_resnet:depth=10,width=1", (9, 11, 3), 1e-6),
        # 20 layers on top of one another round 20 times.
        ("resnet18", (9, 9, 3), 5e-6),
        pytest.param("vgg16_bn", (32, 32, 3), 5e-6, marks=pytest.mark.slow(seconds=20)),
        pytest.param("resnet50", (65, 65, 3), 5e-6, marks=pytest.mark.slow(seconds=60)),
    ],
)
def test_networks_of_the_zoo(spec, shape, tolerance):
    net = hydra_tf.models.build(spec, shape, 10, seed=0)
    randomize(net)
    scale = np.abs(outputs(net, images_of(net))[0]).max()
    there, back = check(net, tolerance * max(1, scale), fuse_relu=False)
    names = [layer.name for layer in net.layers]
    assert sorted(layer.name for layer in there.layers) == sorted(names)
    assert sorted(layer.name for layer in back.layers) == sorted(names)
    assert there.name == back.name == net.name
    for weight, other in zip(net.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def with_operations():
    images = keras.Input([4])
    x = layers.Dense(4)(images)
    y = keras.ops.relu(layers.Dense(4)(x) + x)
    y = keras.activations.relu(keras.ops.add(y, x), max_value=0.5, negative_slope=0.2)
    return keras.Model(images, layers.Dense(2)(y))


def with_a_shared_layer():
    images = keras.Input([4])
    shared = layers.Dense(4, name="shared")
    return keras.Model(images, layers.Add()([shared(images), shared(shared(images))]))


def with_nested_models():
    image = keras.Input([4])
    deeper = keras.Sequential([keras.Input([4]), layers.Dense(4, "relu")])
    inner = keras.Model(image, layers.Add()([deeper(image), image]))
    net = keras.Sequential([keras.Input([4]), inner, layers.Dense(4), inner])
    return net


def with_several_inputs_and_outputs():
    one, two = keras.Input([3, 3, 2], name="one"), keras.Input([3, 3, 1], name="two")
    joined = layers.Concatenate()([one, two])
    return keras.Model([one, two], [layers.Conv2D(2, 2)(joined), layers.Flatten()(two)])


def with_unknown_sizes():
    images = keras.Input([None, None, 3])
    x = layers.Conv2D(4, 3)(images)
    return keras.Model(images, layers.GlobalAveragePooling2D()(x))


def with_a_fixed_batch():
    return keras.Sequential([keras.Input(batch_shape=[3, 4]), layers.Dense(2)])


def that_returns_its_input():
    images = keras.Input([4])
    return keras.Model(images, [images, layers.Dense(2)(images)])


@pytest.mark.parametrize(
    "make",
    [
        with_operations, with_a_shared_layer, with_nested_models, with_several_inputs_and_outputs,
        with_unknown_sizes, with_a_fixed_batch, that_returns_its_input,
    ],
)  # fmt: skip
def test_graphs(make):
    net = make()
    there, back = check(net)
    assert [tuple(tensor.shape) for tensor in there.inputs] == [t.shape for t in net.inputs]
    assert [tensor.shape for tensor in back.inputs] == [t.shape for t in net.inputs]


def test_inputs_keep_their_names_and_order():
    there, back = check(with_several_inputs_and_outputs())
    for copy in (there, back):
        assert [tensor.name for tensor in copy.inputs] == ["one", "two"]


def test_a_shared_layer_stays_one_layer():
    there, back = check(with_a_shared_layer())
    assert [layer.name for layer in there.layers].count("shared") == 1
    assert back.count_params() == there.count_params() == 20


def test_graphs_of_tf_keras_with_nested_models_and_slashes_in_names():
    tf_layers = import_tf_keras().layers
    inner = import_tf_keras().Sequential(
        [tf_layers.Dense(4, activation="swish", input_shape=(4,), name="block/dense")]
    )
    images = import_tf_keras().Input([4], name="images")
    out = tf_layers.Add(name="sum")([inner(images), inner(inner(images))])
    net = import_tf_keras().Model(images, out)
    back = from_tf_keras(net)
    x = images_of(back)
    np.testing.assert_allclose(back(x), net(x), rtol=0, atol=1e-6)
    assert [layer.name for layer in back.layers] == ["images", "block_dense", "sum"]
    assert back.get_layer("block_dense").activation is keras.activations.silu


def small():
    return keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


def before_relu():
    """ReLUs that can be fused, and others that cannot, each after a layer of its own."""
    images = keras.Input([6, 6, 3])
    x = layers.Conv2D(4, 3, name="conv")(images)
    x = layers.ReLU(name="fused1")(x)
    x = layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    x = keras.ops.relu(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Activation("relu", name="fused3")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(6, name="dense")(x)
    x = layers.ReLU(name="fused4")(x)
    shared = layers.Dense(6, name="shared")
    x = layers.ReLU(name="after_shared")(shared(shared(x)))
    x = layers.ReLU(max_value=6.0, name="six")(layers.Dense(6, name="before_six")(x))
    used_twice = layers.Dense(6, name="used_twice")(x)
    x = layers.Add()([layers.ReLU(name="after_used_twice")(used_twice), used_twice])
    x = layers.ReLU(name="after_tanh")(layers.Dense(6, "tanh", name="tanh")(x))
    returned = layers.Dense(6, name="returned")(x)
    return keras.Model(images, [returned, layers.ReLU(name="after_returned")(returned)])


def test_relu_layers_become_activations():
    net = before_relu()
    there, back = check(net)
    activations = {
        layer.name: keras.activations.serialize(layer.activation)
        for layer in back.layers
        if hasattr(layer, "activation")
    }
    assert activations == {
        "conv": "relu", "separable": "relu", "depthwise": "relu", "dense": "relu",
        "shared": "linear", "before_six": "linear", "used_twice": "linear", "tanh": "tanh",
        "returned": "linear",
    }  # fmt: skip
    relu = [layer.name for layer in there.layers if type(layer).__name__ == "ReLU"]
    assert relu == ["after_shared", "six", "after_used_twice", "after_tanh", "after_returned"]
    unfused, _ = check(net, fuse_relu=False)
    assert len(unfused.layers) == len(there.layers) + 4


def test_a_relu_that_is_shared_is_fused_where_it_can_be():
    relu, images = layers.ReLU(name="relu"), keras.Input([4])
    net = keras.Model(images, relu(layers.Dense(3, name="dense")(relu(images))))
    there, _ = check(net)
    assert [layer.name for layer in there.layers[1:]] == ["relu", "dense"]
    assert there.layers[-1].activation.__name__ == "relu"


def test_masked_networks_and_robust_models_have_zeros_where_pruned():
    masked = hydra_tf.mask_model(small())
    hydra_tf.set_density(masked, 0.25)
    for model in (masked, hydra_tf.RobustModel(masked)):
        there = to_tf_keras(model)
        images = np.random.default_rng(0).random((3, 6, 6, 2), dtype=np.float32)
        np.testing.assert_allclose(there(images), masked(images), rtol=0, atol=1e-6)
        for name in ("conv", "logits"):
            mask = np.asarray(masked.get_layer(name).mask)
            np.testing.assert_array_equal(there.get_layer(name).kernel.numpy() != 0, mask)
            kept = np.asarray(from_tf_keras(there).get_layer(name).kernel) != 0
            np.testing.assert_array_equal(kept, mask)


def test_the_copies_share_nothing():
    net = small()
    there = to_tf_keras(net)
    back = from_tf_keras(there)
    before = [net.get_weights(), back.get_weights()]
    for weight in there.weights:
        weight.assign_add(weight + 1)
    for one, other in zip(before, (net, back), strict=True):
        for weight, now in zip(one, other.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, now)


def test_frozen_layers_stay_frozen():
    net = small()
    net.get_layer("norm").trainable = False
    there, back = check(net)
    for copy in (there, back):
        assert [copy.get_layer(name).trainable for name in ("conv", "norm")] == [True, False]
    images = np.ones([8, 6, 6, 2], np.float32)
    # A frozen BatchNorm does not normalise with the batch, also in training.
    np.testing.assert_allclose(there(images, training=True), there(images, training=False))


def test_mixed_precision_becomes_float32():
    net = small()
    half = keras.models.clone_model(
        net,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "dtype": "mixed_float16"}
        ),
    )
    half.set_weights(net.get_weights())
    there = to_tf_keras(half)
    images = np.random.default_rng(0).random((3, 6, 6, 2), dtype=np.float32)
    np.testing.assert_allclose(there(images), net(images), rtol=0, atol=1e-6)


def test_the_policies_of_the_program_do_not_matter():
    there = to_tf_keras(small())
    try:
        keras.config.set_dtype_policy("mixed_float16")
        import_tf_keras().mixed_precision.set_global_policy("mixed_float16")
        again = to_tf_keras(from_tf_keras(there))
    finally:
        keras.config.set_dtype_policy("float32")
        import_tf_keras().mixed_precision.set_global_policy("float32")
    assert {layer.compute_dtype for layer in again.layers} == {"float32"}


def test_synchronized_batchnorm_infers_as_any_other():
    net = keras.Sequential([keras.Input([4]), keras.layers.BatchNormalization(synchronized=True)])
    x = np.random.default_rng(0).random((3, 4)).astype("float32")
    np.testing.assert_allclose(to_tf_keras(net)(x), net(x), rtol=0, atol=1e-6)
