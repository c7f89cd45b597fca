"""MaskedLayer on every kind of Keras layer with kernels, against the layer with zeros in it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.layers import MaskedLayer, WeightMask, kernels_computed_once
from hydra_tf.sparsity import masked_layers
from hydra_tf.sparsity.kernel_weights import kernel_weights

L = keras.layers
SEQUENCE, IMAGE, VIDEO = (4, 3), (6, 6, 3), (3, 5, 5, 2)


@keras.saving.register_keras_serializable(package="test")
class Block(L.Layer):
    """A block without a method `build`, as most users write them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.branches = [L.Dense(4, activation="relu"), L.Dense(4)]
        self.norm, self.drop = L.BatchNormalization(), L.Dropout(0.5, seed=1)

    def call(self, inputs, training=None):
        h = self.branches[0](inputs) + self.branches[1](inputs)
        return self.norm(self.drop(h, training=training), training=training)


@keras.saving.register_keras_serializable(package="test")
class Chosen(L.Layer):
    """A layer that names its prunable weights."""

    def build(self, shape):
        self.matrix = self.add_weight(name="matrix", shape=(shape[-1], 5))
        self.offset = self.add_weight(name="offset", shape=(shape[-2], 5))

    def get_prunable_weights(self):
        return [self.matrix]

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.matrix) + self.offset


@keras.saving.register_keras_serializable(package="test")
class OwnDense(L.Dense):
    """A subclass may compute anything from its kernel."""

    def call(self, inputs, training=None):
        return super().call(inputs) + keras.ops.sum(self.kernel**2)


# Layer, shape of an input, number of inputs, shapes of the kernels and their fan-ins.
CASES = {
    "LSTM": (lambda: L.LSTM(5), SEQUENCE, 1, [(3, 20), (5, 20)], [3, 5]),
    "GRU": (lambda: L.GRU(5), SEQUENCE, 1, [(3, 15), (5, 15)], [3, 5]),
    "SimpleRNN": (lambda: L.SimpleRNN(5), SEQUENCE, 1, [(3, 5), (5, 5)], [3, 5]),
    "ConvLSTM2D": (
        lambda: L.ConvLSTM2D(2, 3), VIDEO, 1, [(3, 3, 2, 8), (3, 3, 2, 8)], [18, 18],
    ),
    "MultiHeadAttention": (
        lambda: L.MultiHeadAttention(2, 4), SEQUENCE, 2, [(3, 2, 4)] * 3 + [(2, 4, 3)],
        [3, 3, 3, 8],
    ),
    "GroupQueryAttention": (
        lambda: L.GroupQueryAttention(4, 4, 2), SEQUENCE, 2,
        [(3, 4, 4), (3, 2, 4), (3, 2, 4), (4, 4, 3)], [3, 3, 3, 16],
    ),
    "SeparableConv1D": (
        lambda: L.SeparableConv1D(4, 2), SEQUENCE, 1, [(2, 3, 1), (1, 3, 4)], [2, 3],
    ),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(4, 3), IMAGE, 1, [(3, 3, 3, 1), (1, 1, 3, 4)], [9, 3],
    ),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(4, 3), SEQUENCE, 1, [(3, 4, 3)], [9]),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(4, 3), IMAGE, 1, [(3, 3, 4, 3)], [27]),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(4, 2), VIDEO, 1, [(2, 2, 2, 4, 2)], [16]),
    "EinsumDense": (
        lambda: L.EinsumDense("abc,cde->abde", (4, 2, 7)), SEQUENCE, 1, [(3, 2, 7)], [3],
    ),
    "TimeDistributed": (lambda: L.TimeDistributed(L.Dense(4)), SEQUENCE, 1, [(3, 4)], [3]),
    "Bidirectional": (
        lambda: L.Bidirectional(L.GRU(4)), SEQUENCE, 1, [(3, 12), (4, 12)] * 2, [3, 4] * 2,
    ),
    "RNN": (
        lambda: L.RNN([L.LSTMCell(4), L.GRUCell(2)]), SEQUENCE, 1,
        [(3, 16), (4, 16), (4, 6), (2, 6)], [3, 4, 4, 2],
    ),
    "SpectralNormalization": (
        lambda: L.SpectralNormalization(L.Conv2D(4, 3)), IMAGE, 1, [(3, 3, 3, 4)], [27],
    ),
    "block": (Block, SEQUENCE, 1, [(3, 4), (3, 4)], [3, 3]),
    "prunable": (Chosen, SEQUENCE, 1, [(3, 5)], [3]),
    "subclass": (lambda: OwnDense(4), SEQUENCE, 1, [(3, 4)], [3]),
}  # fmt: skip


QUICK = ("LSTM", "MultiHeadAttention", "SeparableConv2D", "block")
# Most cases of the longer tests are slow tests.
LONGER = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]


def made(name):
    """Return a network of one layer, its masked copy, and data for both."""
    make, shape, count, *_ = CASES[name]
    keras.utils.set_random_seed(1)
    images = keras.Input(shape)
    net = keras.Model(images, L.Flatten()(make()(*[images] * count)))
    return net, hydra_tf.mask_model(net), np.random.default_rng(0).random((8, *shape), np.float32)


def wrapper(model):
    return next(layer for layer in model.layers if isinstance(layer, MaskedLayer))


@pytest.mark.parametrize("name", CASES)
def test_all_kernels_are_masked_and_outputs_unchanged(name):
    net, masked, x = made(name)
    *_, shapes, fan_ins = CASES[name]
    masks = masked_layers(masked)
    assert [tuple(mask.mask.shape) for mask in masks] == shapes
    assert [mask.fan_in for mask in masks] == fan_ins
    assert len({mask.label for mask in masks}) == len(masks)
    np.testing.assert_array_equal(masked(x), net(x))
    kernel = np.asarray(masks[0].kernel)
    scores = np.sqrt(6 / fan_ins[0]) * kernel / np.abs(kernel).max()
    np.testing.assert_allclose(masks[0].scores, scores, rtol=1e-6)


@pytest.mark.parametrize("name", LONGER)
def test_pruned_outputs_and_gradients_are_those_of_the_layer_with_zeros(name):
    _, masked, x = made(name)
    hydra_tf.set_density(masked, 0.3)
    stripped = hydra_tf.strip_masks(masked)
    np.testing.assert_allclose(masked(x), stripped(x), atol=1e-6)
    assert not masked_layers(stripped)

    @tf.function
    def gradients(model, variables):
        with tf.GradientTape() as tape, kernels_computed_once(masked_layers(model)):
            loss = tf.reduce_sum(tf.square(model(x, training=False)))
        return tape.gradient(loss, variables)

    plain = next(layer for layer in stripped.layers[1:] if kernel_weights(layer))
    kernels = [weight.variable for weight in kernel_weights(plain)]
    masks = masked_layers(masked)
    wanted = gradients(stripped, [kernel.value for kernel in kernels])
    found = gradients(masked, [mask.scores.value for mask in masks])
    for mask, of_kernel, of_scores in zip(masks, wanted, found, strict=True):
        expected = of_kernel * mask.kernel * tf.sign(mask.scores)
        np.testing.assert_allclose(of_scores, expected, rtol=1e-4, atol=1e-5)
        assert float(tf.norm(of_scores)) > 0


@pytest.mark.parametrize("name", LONGER)
def test_a_prune_phase_moves_scores_only_and_the_file_has_everything(name, tmp_path):
    _, masked, x = made(name)
    net = keras.Model(masked.input, L.Dense(3)(masked.output))
    model = hydra_tf.RobustModel(net, "pgd:epsilon=0.1,steps=2", train_batchnorm=False)
    model.compile("sgd")
    hydra_tf.set_density(model, 0.5, allocation="uniform:per_layer=true")
    model.set_phase("prune", 2)
    masks = masked_layers(model)
    kernels = [np.asarray(mask.kernel) for mask in masks]
    scores = [np.asarray(mask.scores) for mask in masks]
    model.fit(x, np.arange(8) % 3, batch_size=4, epochs=1, verbose=0)
    for mask, kernel, score in zip(masks, kernels, scores, strict=True):
        np.testing.assert_array_equal(mask.kernel, kernel)
        assert np.any(np.asarray(mask.scores) != score)
        assert mask.kept() == max(1, round(0.5 * kernel.size))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    for before, after in zip(masks, masked_layers(again), strict=True):
        assert before.label == after.label
        np.testing.assert_array_equal(before.mask, after.mask)
        np.testing.assert_array_equal(before.scores, after.scores)


def test_state_of_layers_inside_is_updated_as_without_masks():
    net, masked, x = made("block")
    for _ in range(2):
        np.testing.assert_array_equal(masked(x, training=True), net(x, training=True))
    for ours, theirs in zip(wrapper(masked).layer.weights, net.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    drop = wrapper(masked).layer.drop.seed_generator.state
    assert np.asarray(drop)[1] == 2  # two draws


def test_losses_of_layers_inside_are_kept():
    penalties = {"activity_regularizer": "l2", "kernel_regularizer": "l2"}
    inner = L.EinsumDense("abc,cd->abd", (4, 2), **penalties)
    net = keras.Sequential([keras.Input(SEQUENCE), inner])
    masked, x = hydra_tf.mask_model(net), np.ones((2, *SEQUENCE), "float32")
    net(x), masked(x)
    np.testing.assert_allclose(masked.losses, net.losses)
    assert len(masked.losses) == 2


def test_padding_of_sequences_is_still_ignored():
    make = [L.Embedding(10, 4, mask_zero=True), L.Bidirectional(L.LSTM(3)), L.Dense(2)]
    net = keras.Sequential([keras.Input((6,), dtype="int32"), *make])
    masked = hydra_tf.mask_model(net)
    short, long = np.array([[3, 4, 0, 0, 0, 0]]), np.array([[3, 4, 0, 0, 5, 0]])
    np.testing.assert_array_equal(masked(short), net(short))
    assert not np.allclose(masked(short), masked(long))
    assert masked_layers(hydra_tf.mask_model(net, include="embedding*"))[0].fan_in == 10


def test_spectral_normalization_divides_kept_weights_only():
    _, masked, x = made("SpectralNormalization")
    hydra_tf.set_density(masked, 0.5)
    mask = masked_layers(masked)[0]
    before, kept = np.asarray(mask.kernel), np.asarray(mask.mask)
    masked(x, training=True)
    after = np.asarray(mask.kernel)
    np.testing.assert_array_equal(after[~kept], before[~kept])
    ratio = after[kept] / before[kept]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert abs(ratio[0] - 1) > 1e-3


def test_values_of_a_scope_of_the_caller_reach_the_layer():
    _, masked, x = made("block")
    state = [tf.zeros_like(variable) for variable in masked.non_trainable_variables]
    trainable = [tf.zeros_like(variable) for variable in masked.trainable_variables]
    outputs, _ = masked.stateless_call(trainable, state, x)
    np.testing.assert_array_equal(outputs, np.zeros_like(outputs))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", QUICK)
def test_mixed_precision(name, policy):
    with _policy(policy):
        net, masked, x = made(name)
    assert net.output.dtype == masked.output.dtype == policy.removeprefix("mixed_")
    np.testing.assert_array_equal(masked(x), net(x))
    np.testing.assert_array_equal(masked(x, training=False), net(x, training=False))
    assert masked_layers(masked)[0].kernel.dtype == "float32"


class _policy:  # noqa: N801 - used as a context
    def __init__(self, name):
        self.name, self.before = name, keras.config.dtype_policy()

    def __enter__(self):
        keras.config.set_dtype_policy(self.name)

    def __exit__(self, *_):
        keras.config.set_dtype_policy(self.before)


def test_use_without_mask_model():
    layer = MaskedLayer(L.LSTM(5, name="lstm"), ["cell/kernel"])
    net = keras.Sequential([keras.Input(SEQUENCE), layer, L.Dense(2)])
    assert [mask.label for mask in masked_layers(net)] == ["lstm/cell/kernel"]
    row = hydra_tf.sparsity.report(net)["layers"][1]
    assert (row["name"], row["masked"]) == ("lstm/cell/recurrent_kernel", False)


def test_layers_whose_build_takes_further_arguments():
    class Named(keras.layers.Dense):
        def build(self, input_shape, **kwargs):
            super().build(input_shape)

    class Any(keras.layers.Dense):
        def build(self, *args, **kwargs):
            super().build(*args)

    for kind in (Named, Any):
        layer = MaskedLayer(kind(3))
        assert tuple(layer(tf.ones([2, 4])).shape) == (2, 3)


def test_wrong_uses_raise():
    with pytest.raises(TypeError, match="MaskedLayer wraps a Keras layer, not 3"):
        MaskedLayer(3)
    with pytest.raises(ValueError, match='"lstm" has no kernel kernel; it has cell/kernel, cell/r'):
        MaskedLayer(L.LSTM(2, name="lstm"), ["kernel"])(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match=r"has no kernels to mask; a layer of your own names them"):
        MaskedLayer(L.ReLU())(np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"share of weights to keep and must lie in"):
        WeightMask("kernel", density=0)

    class Wrong(L.Layer):
        def get_prunable_weights(self):
            return [keras.Variable(np.zeros((2, 2)))]

        def call(self, x):
            return x

    net = keras.Sequential([keras.Input([2]), Wrong(name="wrong")])
    with pytest.raises(ValueError, match=r'get_prunable_weights of the layer "wrong" \(Wrong\)'):
        hydra_tf.mask_model(net)


def test_lora_and_quantized_weights_inside_a_layer_are_refused():
    net = keras.Sequential([keras.Input(SEQUENCE), L.TimeDistributed(L.Dense(4, name="inner"))])
    net.layers[0].layer.enable_lora(2)
    with pytest.raises(ValueError, match=r'"inner" in "time_distributed.*" has LoRA weights'):
        hydra_tf.mask_model(net)
    net = keras.Sequential([keras.Input(SEQUENCE), L.EinsumDense("abc,cd->abd", (4, 4))])
    masked = hydra_tf.mask_model(net)
    wrapper(masked).layer.enable_lora(2)
    with pytest.raises(ValueError, match=r"has LoRA weights, which have no mask; merge them"):
        masked(np.ones((1, *SEQUENCE)))
    net.quantize("int8")
    with pytest.raises(ValueError, match=r"quantized weights, which cannot be masked; quantize"):
        hydra_tf.mask_model(net)


def test_spectral_normalization_without_a_mask_is_frozen_in_the_prune_phase():
    norm = L.SpectralNormalization(L.Dense(6, name="inner"), name="norm")
    net = keras.Sequential([keras.Input([4]), norm, L.Dense(3)])
    model = hydra_tf.RobustModel(hydra_tf.mask_model(net, exclude="norm"), "natural")
    model.compile("sgd")
    norm = model.net.get_layer("norm")
    frozen = [np.asarray(v) for v in norm.variables]
    model.set_phase("prune")
    model.fit(np.ones((6, 4), "float32"), np.arange(6) % 3, verbose=0)
    for variable, value in zip(norm.variables, frozen, strict=True):
        np.testing.assert_array_equal(variable, value)
    model.set_phase("finetune")
    model.fit(np.ones((6, 4), "float32"), np.arange(6) % 3, verbose=0)
    assert np.any(np.asarray(norm.vector_u) != frozen[1])


def _sequence_net(*middle):
    keras.utils.set_random_seed(2)
    images = keras.Input(SEQUENCE)
    h = L.MultiHeadAttention(2, 4)(images, images)
    for layer in middle:
        h = layer(h)
    h = L.Bidirectional(L.LSTM(4))(h)
    return hydra_tf.mask_model(keras.Model(images, L.Dense(3)(h)))


@pytest.mark.slow
def test_xla_gives_the_same_outputs_and_gradients():
    masked = _sequence_net(Block())
    hydra_tf.set_density(masked, 0.5)
    x = np.random.default_rng(0).random((4, *SEQUENCE), np.float32)
    scores = [mask.scores.value for mask in masked_layers(masked)]

    def gradients():
        with tf.GradientTape() as tape:
            outputs = masked(x, training=False)
            loss = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(loss, scores)

    plain, compiled = tf.function(gradients)(), tf.function(gradients, jit_compile=True)()
    for one, other in zip(tf.nest.flatten(plain), tf.nest.flatten(compiled), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_replicas_prune_as_one_device_does(two_replicas):
    x = np.random.default_rng(0).random((8, *SEQUENCE)).astype("float32")
    results = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            net = _sequence_net()
            hydra_tf.set_density(net, 0.5)
            model = hydra_tf.RobustModel(net, "pgd:epsilon=0.1,steps=2,start=zero")
            model.compile(keras.optimizers.SGD(0.5))
        model.set_phase("prune")
        data = tf.data.Dataset.from_tensor_slices((x, np.arange(8) % 3)).batch(8)
        model.fit(data, epochs=2, verbose=0)
        results.append([(np.asarray(m.scores), np.asarray(m.mask)) for m in masked_layers(net)])
    for (scores, mask), (others, other) in zip(*results, strict=True):
        np.testing.assert_allclose(scores, others, rtol=1e-4, atol=1e-6)
        assert mask.sum() == other.sum() == max(1, round(mask.size / 2))


@keras.saving.register_keras_serializable(package="test")
class Transformer(L.Layer):
    """A block with a nested Sequential, a derived state, and two arguments of `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attend = L.MultiHeadAttention(2, 4)
        self.ffn = keras.Sequential([L.Dense(6, activation="relu"), L.Dense(3)])
        self.whiten = L.Normalization()

    def build(self, shape):
        self.attend.build(shape, shape)
        self.ffn.build(shape)
        self.whiten.build(shape)
        self.mixing = self.add_weight(shape=(3, 3), initializer="glorot_uniform")
        self.cls_token = self.add_weight(name="cls_token", shape=(1, 3))

    def call(self, inputs, scale=1.0, training=None):
        h = self.attend(self.whiten(inputs), inputs) + self.cls_token
        return scale * self.ffn(keras.ops.matmul(h, self.mixing))


def _transformer():
    block = Transformer(name="block")
    block.build((None, *SEQUENCE))
    block.whiten.adapt(np.random.default_rng(3).normal(3, 2, (50, *SEQUENCE)))
    images = keras.Input(SEQUENCE)
    return keras.Model(images, L.Dense(2)(L.Flatten()(block(images, scale=2.0))))


def test_blocks_as_users_write_them(tmp_path):
    net, x = _transformer(), np.random.default_rng(0).random((5, *SEQUENCE)).astype("float32")
    masked = hydra_tf.mask_model(net)
    np.testing.assert_array_equal(masked(x), net(x))
    labels = [mask.label for mask in masked_layers(masked)]
    attention = [f"block/attend/{n}_dense/kernel" for n in ("query", "key", "value", "output")]
    assert labels[:-1] == ["block/mixing", *attention, "block/ffn/0/kernel", "block/ffn/1/kernel"]
    hydra_tf.set_density(masked, 0.4)
    np.testing.assert_allclose(hydra_tf.strip_masks(masked)(x), masked(x), atol=1e-6)
    masked.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "net.keras")(x), masked(x))
    again = hydra_tf.mask_model(masked, keep_zeros=True)
    np.testing.assert_array_equal(again(x), masked(x))
    *block, last = [int(np.prod(mask.kernel.shape)) for mask in masked_layers(masked)]
    density = (0.3 * sum(block) + last) / (sum(block) + last)
    hydra_tf.set_density(masked, density, allocation={"block": 0.3, labels[-1]: 1.0})
    assert [round(mask.density, 1) for mask in masked_layers(masked)] == [0.3] * 7 + [1.0]


@pytest.mark.parametrize("call", [{"use_causal_mask": True}, {"return_attention_scores": True}])
def test_flags_of_a_call_reach_the_layer(call):
    images = keras.Input(SEQUENCE)
    outputs = L.MultiHeadAttention(2, 4)(query=images, value=images, **call)
    net = keras.Model(images, outputs)
    masked = hydra_tf.mask_model(net)
    x = np.random.default_rng(0).random((5, *SEQUENCE)).astype("float32")
    for ours, theirs in zip(*map(tf.nest.flatten, (masked(x), net(x))), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_frozen_layers_stay_frozen():
    block = Transformer(name="block")
    block.build((None, *SEQUENCE))
    block.ffn.trainable = False
    net = keras.Sequential([keras.Input(SEQUENCE), block, L.LSTM(3, trainable=False), L.Dense(2)])
    masked = hydra_tf.mask_model(net)
    trainable = {id(variable) for variable in masked.trainable_variables}
    frozen = {m.label for m in masked_layers(masked) if id(m.scores) not in trainable}
    lstm = net.layers[1].name
    assert frozen == {
        "block/ffn/0/kernel", "block/ffn/1/kernel",
        f"{lstm}/cell/kernel", f"{lstm}/cell/recurrent_kernel",
    }  # fmt: skip
    kernels = {id(m.kernel) for m in masked_layers(masked) if m.label in frozen}
    assert not kernels & trainable


def test_names_tell_kernels_from_what_is_added():
    class Named(L.Layer):
        def build(self, shape):
            for name in ("token_mixing", "upscale_kernel", "pos_embed", "bias_table", "dct"):
                weight = self.add_weight(name=name, shape=(3, 3), trainable=name != "dct")
                setattr(self, name, weight)

        def call(self, inputs):
            return inputs

    for trainable in (True, False):
        layer = Named(trainable=trainable)
        layer.build((None, 3))
        assert [k.path for k in kernel_weights(layer)] == ["token_mixing", "upscale_kernel"]


def test_attributes_of_any_name_are_the_users():
    class Own(L.Layer):
        def __init__(self):
            super().__init__(name="own")
            self.layers, self.wrapped = [8, 4], L.Dense(2)
            self.d, self._d = L.Dense(3), L.Dense(5)

        def build(self, shape):
            for layer in (self.wrapped, self.d, self._d):
                layer.build(shape)

        def call(self, inputs):
            return inputs

    layer = Own()
    layer.build((None, 3))
    paths = [kernel.path for kernel in kernel_weights(layer)]
    assert sorted(paths) == ["_d/kernel", "d/kernel", "wrapped/kernel"]


def test_masks_inside_wrappers_are_stripped():
    dense = hydra_tf.layers.MaskedDense(4, name="inner")
    net = keras.Sequential([keras.Input(SEQUENCE), L.TimeDistributed(dense), L.Dense(2)])
    hydra_tf.set_density(net, 0.3)
    stripped = hydra_tf.strip_masks(net)
    assert not masked_layers(stripped)
    x = np.random.default_rng(0).random((5, *SEQUENCE)).astype("float32")
    np.testing.assert_allclose(stripped(x), net(x), atol=1e-6)
    assert np.sum(np.asarray(stripped.layers[0].layer.kernel) == 0) == 12 - 4


def test_batchnorm_inside_wrapped_layers_is_synchronised():
    _, masked, x = made("block")
    hydra_tf.set_density(masked, 0.5)
    copy = hydra_tf.models.synchronize_batchnorm(masked)
    assert wrapper(copy).layer.norm.synchronized
    np.testing.assert_array_equal(copy(x), masked(x))


def test_what_masks_cannot_reach_is_refused():
    class Compiled(L.Dense):
        @tf.function
        def call(self, inputs):
            return super().call(inputs)

    images = keras.Input(SEQUENCE)
    shared, variable = L.Dense(3, name="shared"), keras.Variable(np.ones((3, 2), "float32"))
    cases = {
        "is stateful, which masks": L.LSTM(2, stateful=True)(keras.Input(batch_shape=(2, 4, 3))),
        "is a tf.function, which would keep": Compiled(2)(images),
        'layer "shared" is used by': L.TimeDistributed(shared)(shared(images)),
        "uses the variable .* directly": keras.ops.matmul(L.Dense(3)(images), variable),
    }
    for sentence, outputs in cases.items():
        inputs = keras.utils.get_source_inputs(outputs)
        with pytest.raises(ValueError, match=sentence):
            hydra_tf.mask_model(keras.Model(inputs, outputs))


def test_a_softmax_inside_a_wrapper_is_found():
    net = keras.Sequential([keras.Input([3]), OwnDense(4, activation="softmax")])
    for model in (net, hydra_tf.mask_model(net)):
        with pytest.raises(ValueError, match="ends in probabilities"):
            hydra_tf.RobustModel(model)


def test_numbers_of_tokens_are_not_rounded():
    @keras.saving.register_keras_serializable(package="test")
    class Tokens(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.embed, self.head = L.Embedding(600, 3), L.Dense(2)

        def call(self, tokens):
            return self.head(keras.ops.mean(self.embed(tokens), axis=1))

    with _policy("mixed_bfloat16"):
        net = Tokens()
        tokens = np.array([[257], [256], [513]])
        net(tokens)
        masked = hydra_tf.mask_model(net)
    np.testing.assert_array_equal(masked(tokens), net(tokens))
