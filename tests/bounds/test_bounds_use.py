"""Gradients, graphs, chunks, parameters and registered rules."""

import gc
import subprocess
import sys
import weakref
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import hydra_tf
from hydra_tf import bounds
from hydra_tf.bounds import propagation
from hydra_tf.bounds.crown import CROWN
from hydra_tf.bounds.layer_calls import list_calls
from hydra_tf.bounds.rules import registry
from hydra_tf.bounds.rules.nodes import Rectifier
from hydra_tf.bounds.rules.normalisation import rescaling
from hydra_tf.bounds.rules.registry import ACTIVATIONS, RULES
from hydra_tf.bounds.rules.strided_transpose import strided_transpose
from hydra_tf.layers import kernels_computed_once


def loss_of(net, x, y, method, **options):
    """Return the cross-entropy of the negated bounds, as objectives compute it."""
    low = bounds.margin_lower_bound(net, x, y, 0.05, method, rounding=False, **options)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=-low)
    return tf.reduce_mean(losses)


@pytest.mark.parametrize(
    ("name", "method"),
    [("normed", "ibp"), ("normed", "crown_ibp"), ("pooled", "symbolic"), ("residual", "crown")],
)
def test_gradients_equal_difference_quotients(build_net, batch, name, method):
    net, (x, y) = build_net(name), batch
    variables = net.trainable_variables
    loss = tf.function(lambda: loss_of(net, x, y, method))
    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, [variable.value for variable in variables])
    rng, equal = np.random.default_rng(0), []
    for variable, gradient in zip(variables, gradients, strict=True):
        before, direction = variable.numpy(), rng.normal(size=variable.shape).astype("float32")
        losses = []
        for sign in (1, -1):
            variable.assign(before + sign * 3e-5 * direction)
            losses.append(float(loss()))
        variable.assign(before)
        slope = float(tf.reduce_sum(gradient * direction))
        quotient = (losses[0] - losses[1]) / 6e-5
        equal.append(quotient == pytest.approx(slope, rel=0.05, abs=0.012))
    # Where CROWN's lower slope changes from 0 to 1 the bound jumps and has no derivative.
    assert np.mean(equal) >= (0.7 if "crown" in method else 1)
    assert max(float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients) > 0.1


def test_gradients_flow_to_images_and_radius():
    # f1 - f0 = x: its lower bound is x - epsilon.
    net = keras.Sequential([keras.Input([1]), layers.Dense(2)])
    net.set_weights([np.array([[0.0, 1.0]]), np.zeros(2)])
    x, epsilon = tf.constant([[0.5]]), tf.constant(0.25)
    with tf.GradientTape() as tape:
        tape.watch([x, epsilon])
        low = bounds.margin_lower_bound(net, x, [1], epsilon, "crown_ibp", rounding=False)[0, 0]
    assert float(low) == 0.25
    of_x, of_epsilon = tape.gradient(low, [x, epsilon])
    assert (float(of_x[0, 0]), float(of_epsilon)) == (1.0, -1.0)


def test_parameters_in_the_name_take_precedence():
    assert bounds.build("crown", chunk=7).chunk == 7
    assert bounds.build("crown:chunk=9", chunk=7).chunk == 9
    assert bounds.build("ibp:rounding=false", rounding=True).rounding is False


def test_options_override_those_of_an_instance(build_net, batch):
    net, (x, y) = build_net("plain"), batch

    def low(method, **options):
        return bounds.margin_lower_bound(net, x, y, 0.05, method, **options).numpy()

    exact, safe = low("crown", rounding=False), low("crown", rounding=True)
    assert (exact != safe).any()
    np.testing.assert_array_equal(low(CROWN(rounding=False)), exact)
    np.testing.assert_array_equal(low(CROWN(), rounding=False), exact)
    np.testing.assert_array_equal(low(CROWN(rounding=False), rounding=True), safe)


def test_forms_of_labels_and_pixel_ranges(build_net, batch):
    net, (x, y) = build_net("plain"), batch
    expected = bounds.margin_lower_bound(net, x, y, 0.05).numpy()
    for labels in (y[:, None], np.eye(4)[y], tf.one_hot(y, 4)):
        np.testing.assert_array_equal(bounds.margin_lower_bound(net, x, labels, 0.05), expected)
    for clip in ([0, 1], np.array([0.0, 1.0])):
        found = bounds.margin_lower_bound(net, x, y, 0.05, clip=clip)
        np.testing.assert_array_equal(found, expected)


def test_chunks_limit_the_rows_computed_at_once(monkeypatch):
    rows = []
    lower_bounds = propagation.BoundedGraph.lower_bounds

    def recorded(self, chunk, *rest):
        rows.append(chunk.shape[1])
        return lower_bounds(self, chunk, *rest)

    monkeypatch.setattr(propagation.BoundedGraph, "lower_bounds", recorded)
    net = keras.Sequential([keras.Input([4]), layers.Dense(6, "relu"), layers.Dense(50)])
    bounds.margin_lower_bound(net, np.full((4, 4), 0.5), [0, 1, 2, 3], 0.1, "crown", chunk=40)
    # 49 margins, at most 10 at once for 4 images: 5 chunks of 10. The first layer is exact.
    assert rows == [10]


PEAK = """
import resource
import keras, numpy as np
from keras import layers
from hydra_tf import bounds
from hydra_tf.bounds import propagation

propagation._FLOATS = 1 << 22  # 16 MB a tensor
conv = [layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(6)]
last = [layers.MaxPooling2D(), layers.Flatten(), layers.Dense(10)]
net = keras.Sequential([keras.Input((16, 16, 1)), *conv, *last])
for method in ("crown_ibp", "crown"):
    bounds.margin_lower_bound(net, np.full((1, 16, 16, 1), 0.5), [0], 0.01, method)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow(seconds=20)
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is that of Linux")
def test_memory_does_not_grow_with_the_depth_of_the_network():
    # 256 MB; 890 MB without the control dependencies, as TensorFlow then starts every layer.
    result = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True
    )
    crown_ibp, crown = map(int, result.stdout.split())
    assert crown - crown_ibp < 25 * 16


def test_strided_transpose_equals_conv2d_transpose():
    rng = np.random.default_rng(0)
    for size, kernel, stride, padding in [
        (5, 3, 2, "same"), (8, 4, 2, "same"), (9, 5, 3, "valid"), (7, 2, 3, "valid"),
    ]:  # fmt: skip
        options = {
            "strides": (stride, stride),
            "dilation_rate": (1, 1),
            "padding": padding,
            "data_format": "channels_last",
        }
        weights = tf.constant(rng.normal(size=(kernel, kernel, 3, 4)), tf.float32)
        upstream = tf.constant(rng.normal(size=(2, size, size + 2, 3)), tf.float32)
        rows = tf.nn.conv2d(upstream, weights, stride, padding.upper())
        fast = strided_transpose(options, weights.shape, 1)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([rows, weights])
            found = fast(rows, weights, [size, size + 2, 3])
            expected = tf.nn.conv2d_transpose(
                rows, weights, upstream.shape, stride, padding=padding.upper()
            )
            of_found, of_expected = (tf.reduce_sum(z * upstream) for z in (found, expected))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        for one, other in zip(
            tape.gradient(of_found, [rows, weights]),
            tape.gradient(of_expected, [rows, weights]),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_masked_kernels_are_read_when_the_graph_is_run(build_net, batch):
    net, (x, y) = build_net("masked", 1), batch
    first = bounds.margin_lower_bound(net, x, y, 0.05).numpy()
    with kernels_computed_once([layer for layer in net.layers if hasattr(layer, "mask")]):
        np.testing.assert_array_equal(bounds.margin_lower_bound(net, x, y, 0.05), first)
    weights = net.get_weights()
    hydra_tf.set_density(net, 0.1)
    assert np.abs(bounds.margin_lower_bound(net, x, y, 0.05).numpy() - first).max() > 1e-3
    net.set_weights(weights)
    np.testing.assert_array_equal(bounds.margin_lower_bound(net, x, y, 0.05), first)


def test_calls_of_nested_and_shared_layers_are_in_order():
    shared, images = layers.Dense(2, name="shared"), keras.Input([2])
    inner = keras.Sequential([keras.Input([2]), shared, layers.ReLU(name="relu")])
    x = inner(shared(images))
    net = keras.Model(images, layers.Add(name="sum")([inner(x), x]))
    calls = [(call.layer.name, call.sources) for call in list_calls(net)]
    assert calls == [
        ("shared", (0,)), ("shared", (1,)), ("relu", (2,)),
        ("shared", (3,)), ("relu", (4,)), ("sum", (5, 3)),
    ]  # fmt: skip


def test_a_functional_model_may_be_the_last_layer():
    images = keras.Input([2])
    inner = keras.Model(images, layers.Dense(2, name="dense")(images))
    net = keras.Sequential([keras.Input([2]), inner, layers.ReLU(name="relu"), inner])
    calls = [(call.layer.name, call.sources) for call in list_calls(net)]
    assert calls == [("dense", (0,)), ("relu", (1,)), ("dense", (2,))]


def test_graphs_do_not_keep_the_model_alive():
    net = keras.Sequential([keras.Input([2]), layers.Dense(2)])
    bounds.bound(net, [[0.5, 0.5]], 0.1)
    reference = weakref.ref(net)
    del net
    gc.collect()
    assert reference() is None


def test_bounds_follow_a_layer_added_later():
    net = keras.Sequential([keras.Input([2]), layers.Dense(2)])
    net.set_weights([np.eye(2), np.zeros(2)])
    assert bounds.bound(net, [[0.5, 0.5]], 0.0, rounding=False).lower.numpy()[0, 0] == 0.5
    net.add(layers.Dense(2))
    net.layers[-1].set_weights([3 * np.eye(2), np.zeros(2)])
    assert bounds.bound(net, [[0.5, 0.5]], 0.0, rounding=False).lower.numpy()[0, 0] == 1.5


def adapt_again(net):
    net.layers[0].adapt(np.array([[2.0, 2.0], [4.0, 4.0]]))  # (x - 3) / 1


def change_the_activation(net):
    net.layers[1].activation = keras.activations.leaky_relu


def enable_lora(net):
    layer = net.layers[1]
    layer.enable_lora(1)
    layer.lora_kernel_a.assign([[1.0], [0.0]])
    layer.lora_kernel_b.assign([[1.0, 0.0]])


@pytest.mark.parametrize("change", [adapt_again, change_the_activation, enable_lora])
def test_bounds_follow_changes_in_place(change):
    scaled = layers.Normalization()
    net = keras.Sequential([keras.Input([2]), scaled, layers.Dense(2, "relu"), layers.Dense(2)])
    scaled.adapt(np.array([[-1.0, -1.0], [1.0, 1.0]]))  # (x - 0) / 1
    net.layers[1].set_weights([np.eye(2), np.full(2, -0.75)])
    net.layers[2].set_weights([np.eye(2), np.zeros(2)])
    x = np.array([[0.5, 1.0]], "float32")
    options = {"epsilon": 0.0, "rounding": False}
    before = bounds.bound(net, x, **options).lower.numpy()
    np.testing.assert_allclose(before, [[0.0, 0.25]], atol=1e-6)
    change(net)
    assert np.abs(net(x) - before).max() > 0.01
    np.testing.assert_allclose(bounds.bound(net, x, **options).lower, net(x), atol=1e-6)


def test_an_empty_batch_has_empty_bounds():
    net = keras.Sequential(
        [
            keras.Input([4, 4, 2]),
            layers.Conv2D(3, 2, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(4, "relu"),
            layers.Dense(2),
        ]
    )
    x, y = np.full((3, 4, 4, 2), 0.5), np.zeros(3, int)
    for method in ("ibp", "tightest"):  # the tightest of all methods
        for count in (1, 0, 3, 0):  # by then the graph accepts any batch size
            low = bounds.margin_lower_bound(net, x[:count], y[:count], 0.1, method)
            assert low.shape == (count, 2)
        assert bounds.bound(net, x[:0], 0.1, method).lower.shape == (0, 2)


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def test_rules_may_be_added(monkeypatch):
    net = keras.Sequential(
        [keras.Input([3]), Doubled(), layers.Dense(2, kernel_initializer="ones")]
    )
    with pytest.raises(ValueError, match="no bound rule"):
        bounds.bound(net, np.full((1, 3), 0.5), 0.1)
    monkeypatch.setattr(registry, "RULES", dict(RULES))
    bounds.register_rule(Doubled)(lambda layer, shapes: rescaling(layers.Rescaling(2.0), shapes))
    box = bounds.bound(net, np.full((1, 3), 0.5), 0.1, rounding=False)
    np.testing.assert_allclose(box.upper, [[3.6, 3.6]], rtol=1e-6)


def half_leaky(x):
    return keras.ops.leaky_relu(x, 0.5)


@pytest.mark.parametrize("as_layer", [False, True])
def test_activations_may_be_added(monkeypatch, as_layer):
    last = layers.Activation(half_leaky) if as_layer else layers.Dense(2, half_leaky)
    net = keras.Sequential([keras.Input([2]), layers.Dense(2), last])
    for layer in net.layers:
        if layer.weights:
            layer.set_weights([-np.eye(2), np.zeros(2)])
    with pytest.raises(ValueError, match=r"activation .half_leaky.* linear, relu and leaky_relu"):
        bounds.bound(net, [[0.5, 0.5]], 0.1)
    monkeypatch.setattr(registry, "ACTIVATIONS", dict(ACTIVATIONS))
    bounds.register_activation(half_leaky)(lambda: [Rectifier(0.5)])
    box = bounds.bound(net, [[0.5, 0.5]], 0.1, rounding=False)
    low, high = (-0.3, -0.2) if as_layer else (0.4, 0.6)  # -x / 2, or x after two negations
    np.testing.assert_allclose(box.lower[0], [low, low], rtol=1e-6)
    np.testing.assert_allclose(box.upper[0], [high, high], rtol=1e-6)


def test_a_target_has_one_rule():
    with pytest.raises(ValueError, match="bound rule Dense is already registered"):
        bounds.register_rule("layers.Dense")(rescaling)
    with pytest.raises(ValueError, match="activation relu is already registered"):
        bounds.register_activation("relu")(list)
    with pytest.raises(ValueError, match=r'such as "layers.Dense", .* not for "Dense"'):
        bounds.register_rule("Dense")


LAZY = """
import sys
from hydra_tf import bounds

bounds.BOUNDS.parameters(bounds.BOUNDS.names()[0])
bounds.build("crown:chunk=8")
print({"tensorflow", "keras"} & set(sys.modules))
"""


def test_listing_bounds_does_not_load_tensorflow_and_keras():
    result = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_a_new_method_is_part_of_tightest(monkeypatch):
    monkeypatch.setattr(bounds.BOUNDS, "_parts", dict(bounds.BOUNDS._parts))
    bounds.BOUNDS.names()

    @bounds.BOUNDS.register("seven")
    @dataclass(frozen=True)
    class Seven:
        def __call__(self, graph, box, specifications):
            return tf.fill([1, 1], 7.0)

    net = keras.Sequential([keras.Input([2]), layers.Dense(2, kernel_initializer="zeros")])
    low = bounds.margin_lower_bound(net, [[0.5, 0.5]], [0], 0.1, "tightest").numpy()
    assert low.tolist() == [[0.0, 7.0]]
