"""Every kind of layer gives equal outputs in Keras 3 and tf_keras, with all of its arguments."""

import inspect

import keras
import numpy as np
import pytest

from hydra_tf.interop.tfmot import from_tf_keras, import_tf_keras, to_tf_keras
from hydra_tf.interop.tfmot.layer_kinds import KINDS
from hydra_tf.interop.tfmot.layer_parts import ACTIVATIONS

# Values of arguments without a default.
REQUIRED = {
    "activation": "relu",
    "dims": (2, 1, 3),
    "filters": 4,
    "kernel_size": 3,
    "pool_size": 3,
    "rate": 0.5,
    "target_shape": (7, -1),
    "units": 5,
}
# Other values of each argument, tried one by one; some need further arguments.
OTHERS = {
    "activation": ["tanh"],
    "axis": [2],
    "center": [False],
    "cropping": [2],
    "data_format": ["channels_last"],
    "depth_multiplier": [2],
    "dilation_rate": [2],
    "dims": [(3, 1, 2)],
    "epsilon": [0.1],
    "filters": [6],
    "groups": [2],
    "interpolation": ["bilinear"],
    "keepdims": [True],
    "kernel_size": [1, 2],
    "l1": [0.1],
    "l2": [0.1],
    "max_value": [0.5],
    "momentum": [0.5],
    "negative_slope": [0.1],
    "noise_shape": [(1, 6, 4)],
    "output_padding": [{"output_padding": 1, "strides": 2}],
    "padding": ["same", {"padding": "same", "strides": 2}],
    "pool_size": [2],
    "rate": [0.1],
    "scale": [False],
    "seed": [3],
    "size": [3],
    "strides": [2],
    "target_shape": [(3, 7, 8)],
    "threshold": [0.2],
    "units": [1],
    "use_bias": [False],
}
FUNCTIONS = {
    "regularizer": keras.regularizers.L1L2(0.01, 0.02),
    "constraint": keras.constraints.MaxNorm(0.7),
}
SHAPES = {"1D": [7, 4], "2D": [7, 6, 4], "3D": [7, 5, 6, 4]}


def variants(kind):
    """Yield arguments of layers of a kind: those that it requires, and each other value."""
    needed = {
        name: REQUIRED[name]
        for name, parameter in inspect.signature(getattr(keras.layers, kind)).parameters.items()
        if parameter.default is inspect.Parameter.empty and name != "kwargs"
    }
    if "pool_size" in KINDS[kind].arguments:
        needed["pool_size"] = 3
    yield needed
    for name in KINDS[kind].arguments:
        what = name.rpartition("_")[2]
        if what in FUNCTIONS:
            values = [FUNCTIONS[what]]
        elif kind.startswith("ZeroPadding"):
            values = {"padding": [2], "data_format": ["channels_last"]}[name]
        elif name == "activation" and kind in ("Activation", "Dense"):
            values = ACTIVATIONS
        else:
            values = OTHERS[name]
        for value in values:
            yield {**needed, **(value if isinstance(value, dict) else {name: value})}


def network(kind):
    """Return a network with one output for each variant of a layer, with random weights."""
    shape = SHAPES.get(kind[-2:], [7, 6, 4])
    merging = kind in ("Add", "Concatenate")
    images = [keras.Input(shape, name=f"image{i}") for i in range(2 if merging else 1)]
    layers = [
        getattr(keras.layers, kind)(**arguments, name=f"variant{number}")
        for number, arguments in enumerate(variants(kind))
    ]
    outputs = [layer(images if merging else images[0]) for layer in layers]
    net = keras.Model(images if merging else images[0], outputs)
    randomize(net)
    return net


def randomize(net):
    """Set all weights to random values, and moving variances to positive ones."""
    random = np.random.default_rng(0)
    for weight in net.weights:
        if weight.dtype == "float32":
            values = random.normal(0, 0.3, weight.shape)
            weight.assign(np.abs(values) + 0.1 if "variance" in weight.name else values)


def outputs(net, images):
    return [np.asarray(output) for output in keras.tree.flatten(net(images, training=False))]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_equal_in_both_directions(kind):
    net = network(kind)
    random = np.random.default_rng(1)
    images = [
        random.normal(0, 1, (3, *tensor.shape[1:])).astype("float32") for tensor in net.inputs
    ]
    images = images if len(images) > 1 else images[0]
    expected = outputs(net, images)
    there = to_tf_keras(net)
    assert isinstance(there, import_tf_keras().Model)
    assert_equal(outputs(there, images), expected)
    back = from_tf_keras(there)
    assert_equal(outputs(back, images), outputs(there, images))
    for layer in net.layers:
        copy = back.get_layer(layer.name)
        assert type(copy) is type(layer)
        for weight, other in zip(layer.get_weights(), copy.get_weights(), strict=True):
            if weight.dtype == np.float32:  # not the state of a random number
                np.testing.assert_array_equal(weight, other)
        assert arguments_of(copy) == arguments_of(layer)
    np.testing.assert_allclose(losses(there, images), losses(net, images), rtol=1e-5)


def arguments_of(layer):
    """Return the arguments of a layer, with those of its regularizers and constraints."""
    arguments = {"axis": None}
    for name, value in layer.get_config().items():
        if isinstance(value, dict) and name.rpartition("_")[2] in FUNCTIONS:
            arguments.update(getattr(layer, name).get_config())
        elif not name.endswith("initializer") and name not in ("dtype", "batch_shape"):
            arguments[name] = value
    # A built layer of tf_keras counts axes from the front, and its numbers are float32.
    if type(layer).__name__ == "BatchNormalization":
        arguments["axis"] %= len(layer.input.shape)
    return {
        name: np.float32(value) if isinstance(value, float) else value
        for name, value in arguments.items()
    }


def losses(net, images):
    net(images, training=False)
    return sorted(float(loss) for loss in net.losses)


def test_networks_of_one_kind_use_every_argument_of_the_table():
    known = {*OTHERS, *(f"{w}_{f}" for f in FUNCTIONS for w in
        ("kernel", "bias", "activity", "depthwise", "pointwise", "beta", "gamma"))}  # fmt: skip
    assert {name for kind in KINDS.values() for name in kind.arguments} <= known


def test_the_table_is_what_tfmot_quantizes():
    import importlib

    from hydra_tf.interop.tfmot import import_tfmot

    import_tfmot()
    package = "tensorflow_model_optimization.python.core.quantization.keras.default_8bit"
    registry = importlib.import_module(f"{package}.default_8bit_quantize_registry")
    supported = registry.Default8BitQuantizeRegistry()
    layers = import_tf_keras().layers
    by_transformation = {"BatchNormalization", "SeparableConv1D", "SeparableConv2D"}
    assert set(KINDS) == by_transformation | {
        name
        for name in dir(layers)
        if isinstance(getattr(layers, name), type)
        and supported._is_supported_layer(getattr(layers, name))
        and getattr(layers, name).__name__ == name
    }
