"""What cannot be converted is named, with what is supported."""

import keras
import numpy as np
import pytest
from keras import layers

from hydra_tf.core.layer_calls import functional_model
from hydra_tf.interop.tfmot import bridge, from_tf_keras, import_tf_keras, import_tfmot, to_tf_keras

SUPPORTED = r"cannot be converted; supported are .* Conv2D, .*Dense, .* operations add and relu"


class Scaled(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@keras.saving.register_keras_serializable("tests")
class Cubed(keras.regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(keras.ops.abs(x) ** 3)

    def get_config(self):
        return {}


def stack(*added, shape=(4,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *added])


def graph(call, shape=(4,)):
    images = keras.Input(shape)
    return keras.Model(images, call(images))


def built(make):
    net = Subclassed()
    net(np.zeros([1, 4], np.float32))
    return net if make is None else make(net)


def with_lora():
    net = stack(layers.Dense(3, name="dense"))
    net.layers[0].enable_lora(1)
    return net


def in_int8():
    net = stack(layers.Dense(3, name="dense"))
    net.quantize("int8")
    return net


def twice_the_same_name():
    inner = stack(layers.Dense(4, name="dense"))
    return stack(inner, layers.Dense(4, name="dense"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stack(layers.GroupNormalization(2, name="norm")), r'^Layer "norm" \(GroupNorm'),
        (lambda: stack(layers.GroupNormalization(2, name="norm")), SUPPORTED),
        (lambda: stack(layers.ELU(name="elu")), r'^Layer "elu" \(ELU\) ' + SUPPORTED),
        (lambda: stack(Scaled(2, name="twice")), r'^Layer "twice" \(Scaled\) ' + SUPPORTED),
        (lambda: stack(stack(layers.ELU(name="inner"))), '^Layer "inner"'),
        (lambda: graph(keras.ops.tanh), r'^Layer "tanh\S*" \(Tanh\) ' + SUPPORTED),
        (lambda: graph(lambda x: x + 1.0), "is called with numbers as well as tensors, which is"),
        (
            lambda: graph(lambda x: layers.Dropout(0.5, name="drop")(x, training=True)),
            r'^Layer "drop" \(Dropout\) is called with training, which is not supported; call it',
        ),
        (
            lambda: graph(lambda x: layers.Dense(1)(x) + x),
            r'^The operation "add\S*" adds tensors of the shapes \(None, 1\), \(None, 4\); give',
        ),
        (
            lambda: stack(layers.Dense(2, "elu", name="dense")),
            r'"dense" \(Dense\) has the activation "elu", which TFMOT cannot quantize; supported '
            "are gelu, linear, relu",
        ),
        (
            lambda: stack(layers.Dense(2, layers.ReLU(6.0), name="dense")),
            r'"dense" \(Dense\) has the activation "ReLU", which TFMOT cannot quantize',
        ),
        (
            lambda: stack(layers.Flatten(data_format="channels_first", name="flat"), shape=(4, 4)),
            r'"flat" \(Flatten\) has data_format="channels_first", but only "channels_last" can',
        ),
        (
            lambda: stack(layers.Dense(2, kernel_regularizer=Cubed(), name="dense")),
            r'^Layer "dense" \(Dense\) cannot be made in tf_keras: .*Cubed.*\.$',
        ),
        (
            with_lora,
            r'^Layer "dense" \(Dense\) has weights of the shapes .*lora_kernel_a.*, but a plain ',
        ),
        (in_int8, r'^Layer "dense" \(Dense\) has .*int8.*'),
        (
            lambda: stack(layers.Dense(2, dtype="float64", name="dense")),
            r'^Layer "dense" \(Dense\) has the weight "kernel" in float64, but TFMOT needs float32',
        ),
        (
            lambda: stack(layers.ReLU(), dtype="int32"),
            r'^The input "\S+" is of the type int32, but only float32 can be converted\.$',
        ),
        (twice_the_same_name, '^Two layers of the network .* are named "dense"; rename one.$'),
        (lambda: keras.Sequential([layers.Dense(2)]), "^The model is not built yet"),
    ],
)
def test_networks_that_cannot_become_tf_keras(make, message):
    net = make()
    with pytest.raises(ValueError, match=message) as caught:
        to_tf_keras(net)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: built(None), "^Subclassed is a subclassed model, whose layers cannot be"),
        (lambda: built(lambda net: graph(net)), "^Subclassed is a subclassed model"),
        (lambda: "net", "^Expected a Keras model, not str"),
        (lambda: tf_stack(), "^to_tf_keras takes a Keras 3 model, but this is a tf_keras model"),
    ],
)
def test_objects_that_are_no_keras_3_graph(make, message):
    with pytest.raises(TypeError, match=message):
        to_tf_keras(make())


def tf_stack(*added, shape=(4,)):
    tf_keras = import_tf_keras()
    return tf_keras.Sequential([tf_keras.layers.InputLayer(shape), *added])


def tf_dense():
    return tf_stack(tf_layers().Dense(2))


def tf_graph(call):
    images = import_tf_keras().Input([4])
    return import_tf_keras().Model(images, call(images))


def tf_subclassed():
    class Own(import_tf_keras().Model):
        def call(self, x):
            return x

    net = Own()
    net(np.zeros([1, 4], np.float32))
    return net


def tf_layers():
    return import_tf_keras().layers


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf_stack(tf_layers().ELU(name="elu")), r'^Layer "elu" \(ELU\) ' + SUPPORTED),
        (
            lambda: tf_graph(lambda x: x + 1.0),
            r'^Layer "tf.__operators__.add\S*" \(TFOpLambda\) ' + SUPPORTED,
        ),
        (
            lambda: tf_graph(lambda x: tf_layers().Dropout(0.5, name="drop")(x, training=True)),
            r'^Layer "drop" \(Dropout\) is called with training, which is not supported; call it',
        ),
        (
            lambda: tf_stack(tf_layers().Dense(2, activation="elu", name="dense")),
            r'^Layer "dense" \(Dense\) has the activation "elu", which TFMOT cannot quantize',
        ),
        (
            lambda: tf_stack(tf_layers().Dense(2, dtype="float64", name="dense")),
            'has the weight "kernel" in float64',
        ),
        (lambda: import_tf_keras().Sequential([tf_layers().Dense(2)]), "^The model is not built"),
        (
            lambda: import_tfmot().sparsity.keras.prune_low_magnitude(
                tf_stack(tf_layers().Dense(2))
            ),
            r"wrapped by TFMOT \(PruneLowMagnitude\); call tfmot.sparsity.keras.strip_pruning on",
        ),
        (
            lambda: import_tfmot().quantization.keras.quantize_annotate_model(tf_dense()),
            r"wrapped by TFMOT \(QuantizeAnnotate\); call tfmot.quantization.keras.quantize_apply",
        ),
    ],
)
def test_networks_that_cannot_come_from_tf_keras(make, message):
    net = make()
    with pytest.raises(ValueError, match=message) as caught:
        from_tf_keras(net)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tf_subclassed, "^Own is a subclassed model, whose layers cannot be followed"),
        (lambda: tf_graph(tf_subclassed()), "^Own is a subclassed model"),
        (lambda: stack(layers.Dense(2)), "^from_tf_keras takes a tf_keras model, not keras.src"),
        (lambda: "net", "^from_tf_keras takes a tf_keras model, not builtins.str"),
    ],
)
def test_objects_that_are_no_tf_keras_graph(make, message):
    with pytest.raises(TypeError, match=message):
        from_tf_keras(make())


def test_functional_model_refuses_other_objects():
    with pytest.raises(TypeError, match=r"^Expected a functional or .* model, not str"):
        functional_model("net")


@pytest.mark.parametrize("convert", [to_tf_keras, lambda net: from_tf_keras(to_tf_keras(net))])
def test_a_network_with_other_outputs_is_not_returned(convert, monkeypatch):
    net = stack(layers.Dense(2), layers.LeakyReLU())
    monkeypatch.setattr(bridge, "write_weights", lambda layer, parts: None)
    with pytest.raises(RuntimeError, match=r'^The outputs of "sequential\S*" after the conversion'):
        convert(net)
