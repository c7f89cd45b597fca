"""mask_model and strip_masks on every shape of Keras model."""

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf import layers as masked_kinds
from hydra_tf.sparsity import masked_layers, report

L = keras.layers


def sequential():
    return keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            L.Conv2D(4, 3, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.DepthwiseConv2D(2, name="depthwise"),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(5, name="logits"),
        ],
        name="sequential_net",
    )


def residual():
    inputs = keras.Input([6, 6, 2], name="images")
    h = L.Conv2D(4, 3, padding="same", name="stem")(inputs)
    a = keras.ops.relu(L.BatchNormalization()(h, training=False))
    a = L.Conv2D(4, 3, padding="same", name="a")(a)
    b = L.Conv2D(4, 1, name="b")(h)[:, :, :, ::-1]
    h = L.Add()([h, a]) + b * 2
    return keras.Model(inputs, L.Dense(5, name="logits")(L.Flatten()(h)), name="residual_net")


def nested():
    block = keras.Sequential(
        [keras.Input([6, 6, 4]), L.Conv2D(4, 3, padding="same", name="conv")], name="block"
    )
    tail_in = keras.Input([6, 6, 4])
    tail = keras.Model(tail_in, L.Dense(5, name="conv")(L.Flatten()(block(tail_in))), name="tail")
    inputs = keras.Input([6, 6, 2])
    h = block(block(L.Conv2D(4, 1, name="stem")(inputs)))
    return keras.Model(inputs, tail(h), name="nested_net")


def shared():
    inputs = keras.Input([6, 6, 2])
    conv = L.Conv2D(2, 3, padding="same", name="shared")
    h = L.Concatenate()([conv(inputs), conv(conv(inputs))])
    return keras.Model(inputs, L.Dense(5)(L.Flatten()(h)), name="shared_net")


def called_sequential():
    net = keras.Sequential([L.Flatten(), L.Dense(4), L.Dense(5)], name="called")
    net(np.zeros((1, 6, 6, 2), "float32"))
    return net


def normalised():
    norm = L.Normalization(name="normalise")
    norm.adapt(np.random.default_rng(3).normal(3, 2, (50, 6, 6, 2)).astype("float32"))
    return keras.Sequential([keras.Input([6, 6, 2]), norm, L.Flatten(), L.Dense(5)])


NETS = [sequential, residual, nested, shared, called_sequential, normalised]
X = np.random.default_rng(0).random((3, 6, 6, 2)).astype("float32")


def randomised(net):
    """Give every variable, BatchNorm's included, a random positive value."""
    rng = np.random.default_rng(1)
    for variable in net.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    for layer in net.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
            layer.moving_variance.assign(rng.random(layer.moving_variance.shape) + 0.5)
    return net


@pytest.mark.parametrize("make", NETS, ids=lambda f: f.__name__)
def test_masking_and_stripping_leave_outputs_unchanged(make):
    net = randomised(make())
    before = [np.array(v) for v in net.variables]
    masked = hydra_tf.mask_model(net)
    stripped = hydra_tf.strip_masks(masked)
    np.testing.assert_array_equal(masked(X), net(X))
    np.testing.assert_array_equal(stripped(X), net(X))
    for ours, theirs in zip(net.weights, stripped.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.path.split("/")[-2:] == theirs.path.split("/")[-2:]
    for model in (masked, stripped):
        assert model.name == net.name
        assert names(model) == names(net)
        assert not {id(v) for v in model.variables} & {id(v) for v in net.variables}
    for variable, value in zip(net.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def names(net):
    """Layer names; Keras itself gives the inputs of a clone new ones unless they are named."""
    layers = [layer for layer in net.layers if "input_layer" not in layer.name]
    return [layer.name for layer in layers if "keras_tensor" not in layer.name]


def test_batch_statistics_of_training_mode_are_the_same():
    net = randomised(residual())
    masked = hydra_tf.mask_model(net)
    np.testing.assert_array_equal(masked(X, training=True), net(X, training=True))
    np.testing.assert_array_equal(masked(X), net(X))


@pytest.mark.parametrize("make", NETS, ids=lambda f: f.__name__)
def test_stripping_a_pruned_net_writes_zeros(make):
    masked = hydra_tf.mask_model(randomised(make()))
    hydra_tf.set_density(masked, 0.3)
    stripped = hydra_tf.strip_masks(masked)
    np.testing.assert_array_equal(stripped(X), masked(X))
    assert not masked_layers(stripped)
    rows = {row["shape"].__repr__() + row["name"]: row for row in report(masked)["layers"]}
    for model_layer in flat(stripped):
        assert type(model_layer).__module__.partition(".")[0] == "keras"
        kernel = getattr(model_layer, "kernel", None)
        if kernel is not None:
            row = rows[str(list(kernel.shape)) + model_layer.name]
            zeros = np.asarray(kernel) == 0
            assert row["weights"] - row["kept"] == zeros.sum() > 0
            assert not np.signbit(np.asarray(kernel)[zeros]).any()  # -0.0 compresses badly


def flat(model):
    for layer in model.layers:
        yield from flat(layer) if hasattr(layer, "layers") else [layer]


def test_classes_and_first_scores():
    net = randomised(sequential())
    masked = hydra_tf.mask_model(net)
    assert [type(layer) for layer in masked.layers] == [
        masked_kinds.MaskedConv2D,
        L.BatchNormalization,
        L.ReLU,
        masked_kinds.MaskedDepthwiseConv2D,
        L.Flatten,
        L.Dropout,
        masked_kinds.MaskedDense,
    ]
    for layer in masked_layers(masked):
        # A depthwise output sees one channel: its fan-in is the kernel's spatial size.
        spatial = isinstance(layer, masked_kinds.MaskedDepthwiseConv2D)
        inputs = np.prod(layer.kernel.shape[: -2 if spatial else -1])
        kernel = np.asarray(layer.kernel)
        expected = np.sqrt(6 / inputs) * kernel / np.abs(kernel).max()
        np.testing.assert_allclose(layer.scores, expected, rtol=1e-6)
        assert np.all(np.asarray(layer.mask) == 1)
        assert layer.density == 1.0


def test_shared_layers_and_nested_models_stay_shared():
    net = shared()
    masked = hydra_tf.mask_model(net)
    assert len(masked.variables) == len(net.variables) + 2 * 2  # scores and mask of two layers
    conv = masked.get_layer("shared")
    conv.bias.assign([100.0, 100.0])
    assert not np.allclose(masked(X), net(X))

    net = nested()
    masked = hydra_tf.mask_model(net)
    assert len(masked_layers(masked)) == 3
    assert len(masked.variables) == len(net.variables) + 3 * 2
    assert masked.get_layer("block") is masked.get_layer("tail").get_layer("block")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"include": "conv*"}, ["conv"]),
        ({"include": ["conv", "log*"]}, ["conv", "logits"]),
        ({"include": lambda layer: isinstance(layer, L.Dense)}, ["logits"]),
        ({"exclude": "logits"}, ["conv", "depthwise"]),
        ({"exclude": ["logits", "depth*"]}, ["conv"]),
        ({"exclude": lambda layer: layer.name == "conv"}, ["depthwise", "logits"]),
        ({"include": "*", "exclude": "conv"}, ["depthwise", "logits"]),
    ],
)
def test_layers_are_chosen_by_pattern_list_or_predicate(choice, expected):
    net = randomised(sequential())
    masked = hydra_tf.mask_model(net, **choice)
    assert [layer.name for layer in masked_layers(masked)] == expected
    np.testing.assert_array_equal(masked(X), net(X))


def test_choices_without_a_match_raise():
    for argument in ("include", "exclude"):
        with pytest.raises(ValueError, match=f"{argument}='cnov' matches no layer; the layers are"):
            hydra_tf.mask_model(sequential(), **{argument: ["conv", "cnov"]})
    for nothing in ([], "norm", lambda layer: False):
        with pytest.raises(ValueError, match="nothing to mask: no selected layer has a kernel"):
            hydra_tf.mask_model(sequential(), include=nothing)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_models_that_cannot_be_masked_raise():
    model = Subclassed()
    model(np.zeros((1, 3)))
    with pytest.raises(TypeError, match="Subclassed is a subclassed model"):
        hydra_tf.strip_masks(model)
    with pytest.raises(TypeError, match="Expected a Keras model, not Dense"):
        hydra_tf.mask_model(L.Dense(2))
    with pytest.raises(ValueError, match="The model is not built yet"):
        hydra_tf.mask_model(keras.Sequential([L.Dense(2)]))
    with pytest.raises(ValueError, match="nothing to mask"):
        hydra_tf.mask_model(keras.Sequential([keras.Input([4, 2]), L.Flatten()]))


def test_layers_left_without_a_mask_are_warned_about_with_their_share(warned):
    inputs = keras.Input([6, 6, 2])
    h = L.Conv2DTranspose(3, 2, name="up")(inputs)  # 2 * 2 * 3 * 2 = 24
    h = L.TimeDistributed(L.LSTM(4), name="rows")(h)  # 3 * 16 + 4 * 16 = 112
    net = keras.Model(inputs, L.Dense(5, name="logits")(L.Flatten()(h)), name="net")  # 140
    hydra_tf.mask_model(net)
    assert [text for text in warned if "kernel weights" in text] == []
    assert "up (Conv2DTranspose), rows (TimeDistributed)" in warned.pop()
    masked = hydra_tf.mask_model(net, exclude="rows")
    assert "itself: up (Conv2DTranspose)." in warned.pop(0)
    assert warned == [  # 164 of 276 are masked: 0.1 * 0.594 + 0.406 = 0.465
        "hydra_tf: the masks reach 59.4% of the kernel weights of net, so that at a density of 0.1 "
        "of the masked layers it keeps 46.5% of all; layers without a mask: rows "
        "(TimeDistributed) 40.6%."
    ]
    weights = {"up": 24, "rows/layer/cell/kernel": 48, "rows/layer/cell/recurrent_kernel": 64}
    rows = report(masked)["layers"]
    assert {row["name"]: row["weights"] for row in rows} == {**weights, "logits": 140}


def test_zeros_are_kept_if_asked():
    masked = hydra_tf.mask_model(randomised(sequential()))
    hydra_tf.set_density(masked, 0.2)
    sparse = hydra_tf.strip_masks(masked)
    again = hydra_tf.mask_model(sparse, keep_zeros=True)
    assert report(again)["total"] == report(masked)["total"]
    for before, after in zip(masked_layers(masked), masked_layers(again), strict=True):
        np.testing.assert_array_equal(before.mask, after.mask)
    np.testing.assert_array_equal(again(X), sparse(X))


def test_masked_models_keep_their_masks():
    masked = hydra_tf.mask_model(randomised(sequential()), exclude="logits")
    hydra_tf.set_density(masked, 0.2)
    masked_layers(masked)[0].scores.assign(-masked_layers(masked)[0].scores * 3)
    again = hydra_tf.mask_model(masked)
    assert [layer.name for layer in masked_layers(again)] == ["conv", "depthwise", "logits"]
    for ours, theirs in zip(masked_layers(masked), masked_layers(again), strict=False):
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        assert theirs.density == ours.density
    np.testing.assert_array_equal(again(X), masked(X))


def test_flags_and_policies_survive():
    net = keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            L.Conv2D(4, 3, name="conv", dtype="mixed_float16", kernel_regularizer="l2"),
            L.BatchNormalization(name="norm"),
            L.Flatten(),
            L.Dense(5, name="logits", dtype="float32"),
        ]
    )
    net.layers[0].trainable = net.layers[1].trainable = False
    masked = hydra_tf.mask_model(randomised(net))
    for model in (masked, hydra_tf.strip_masks(masked)):
        assert [layer.trainable for layer in model.layers] == [False, False, True, True]
        assert [layer.dtype_policy.name for layer in model.layers[:2]] == [
            "mixed_float16",
            "float32",
        ]
        assert isinstance(model.layers[0].kernel_regularizer, keras.regularizers.L2)
        np.testing.assert_array_equal(model(X), net(X))
    assert [v.name for v in masked.trainable_variables] == ["kernel", "bias", "scores"]


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64", "mixed_bfloat16"])
def test_every_precision_is_masked(policy):
    net = keras.Sequential([keras.Input([6]), L.Dense(4, dtype=policy), L.Dense(3, dtype=policy)])
    masked = hydra_tf.mask_model(randomised(net))
    x = np.random.default_rng(0).random((2, 6)).astype("float32")
    np.testing.assert_array_equal(masked(x), net(x))
    hydra_tf.set_density(masked, 0.5)
    np.testing.assert_array_equal(hydra_tf.strip_masks(masked)(x), masked(x))


def test_compiled_models_stay_compiled_and_their_copies_are_not():
    def own_loss(y, prediction):
        return keras.ops.mean(prediction) + 0 * keras.ops.mean(y)

    net = sequential()
    net.compile(keras.optimizers.Adam(), loss=own_loss)
    net.train_on_batch(X, np.zeros((3, 5)))
    masked = hydra_tf.mask_model(net)
    assert net.compiled
    assert not masked.compiled
    np.testing.assert_array_equal(masked(X), net(X))
    net.train_on_batch(X, np.zeros((3, 5)))
    masked.compile("sgd", "mse")
    masked.train_on_batch(X, np.zeros((3, 5)))
    assert not hydra_tf.strip_masks(masked).compiled


def test_structured_inputs_and_outputs_keep_their_names():
    inputs = {"a": keras.Input([4], name="a"), "b": keras.Input([3], name="b")}
    outputs = {"one": L.Dense(2)(inputs["a"]), "two": L.Dense(2)(inputs["b"])}
    net = keras.Model(inputs, outputs)
    net.compile("sgd", "mse")
    x = {"a": np.ones((2, 4), "float32"), "b": np.ones((2, 3), "float32")}
    masked = hydra_tf.mask_model(net)
    for model in (masked, hydra_tf.strip_masks(masked)):
        assert set(model.input) == {"a", "b"}
        for key, value in model(x).items():
            np.testing.assert_array_equal(value, net(x)[key])


def test_a_plain_model_gives_a_plain_copy():
    net = randomised(sequential())
    copy = hydra_tf.strip_masks(net)
    assert copy is not net
    np.testing.assert_array_equal(copy(X), net(X))
