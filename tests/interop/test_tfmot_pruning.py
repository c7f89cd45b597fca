"""Magnitude pruning of Keras 3 models against TFMOT on tf_keras."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.interop import tfmot
from hydra_tf.sparsity import masked_layers

RNG = np.random.default_rng(0)
IMAGES = RNG.random((32, 6, 6, 2)).astype("float32")
TARGETS = RNG.normal(size=(32, 5)).astype("float32")
STEPS = 12


@pytest.fixture(scope="module")
def original():
    """TFMOT itself."""
    return tfmot.import_tfmot()


def network(library):
    """The same layers in Keras 3 or in tf_keras."""
    layers = library.layers
    return library.Sequential(
        [
            layers.InputLayer(shape=(6, 6, 2))
            if library is keras
            else layers.InputLayer((6, 6, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.LayerNormalization(name="norm"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(4, 2, name="separable"),
            layers.Flatten(name="flatten"),
            layers.Dense(5, name="dense"),
        ]
    )


class Masks:
    """Records weights and masks after each step."""

    def __init__(self, library, read):
        class Recorder(library.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                masks.append([np.asarray(mask) > 0 for mask in read(self.model)])
                after.append([np.asarray(w) for w in weights(self.model)])

        self.masks, self.weights = masks, after = [], []
        self.callback = Recorder()


def weights(model):
    """The weights of the layers inside wrappers, in the order of the layers."""
    inner = [getattr(layer, "layer", layer) for layer in model.layers]
    return [np.asarray(w) for layer in inner for w in layer.get_weights()]


def trained_by_tfmot(original, schedule, optimizer, starts):
    """Train with TFMOT on tf_keras; return what was recorded, and the model."""
    tf_keras = tfmot.import_tf_keras()
    net = network(tf_keras)
    net.set_weights(starts)
    pruned = original.sparsity.keras.prune_low_magnitude(net, pruning_schedule=schedule)
    record = Masks(
        tf_keras,
        lambda model: [mask for layer in model.layers for _, mask, _ in _vars(layer)],
    )
    pruned.compile(getattr(tf_keras.optimizers, optimizer)(0.05), "mse")
    callbacks = [original.sparsity.keras.UpdatePruningStep(), record.callback]
    pruned.fit(
        IMAGES, TARGETS, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
    )
    return record, pruned


def _vars(layer):
    return getattr(layer, "pruning_vars", [])


def trained_here(schedule, optimizer, starts):
    """Train the Keras 3 twin; return what was recorded, and the model."""
    net = network(keras)
    net.set_weights(starts)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(net, pruning_schedule=schedule)
    record = Masks(keras, lambda model: [mask.mask for mask in masked_layers(model)])
    pruned.compile(getattr(keras.optimizers, optimizer)(0.05), "mse")
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep(), record.callback]
    pruned.fit(
        IMAGES, TARGETS, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
    )
    return record, pruned


@pytest.mark.parametrize(
    ("schedule", "optimizer", "rounding"),
    [
        (("PolynomialDecay", (0.2, 0.9, 2, 10), {"frequency": 2}), "SGD", 1e-5),
        # Adam divides by the size of gradients, some of which are as small as rounding errors.
        (("ConstantSparsity", (0.7, 3), {"frequency": 1}), "Adam", 1e-4),
    ],
)
def test_training_equals_tfmot_step_by_step(original, schedule, optimizer, rounding):
    name, args, options = schedule
    made = getattr(tfmot.sparsity.keras, name)(*args, **options)
    starts = network(keras).get_weights()
    theirs, their_model = trained_by_tfmot(original, made, optimizer, starts)
    ours, our_model = trained_here(made, optimizer, starts)
    assert len(ours.masks) == len(theirs.masks) == STEPS
    for step, (one, other) in enumerate(zip(ours.masks, theirs.masks, strict=True)):
        for mask, twin in zip(one, other, strict=True):
            assert (mask == twin).all(), f"step {step}"
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        for weight, twin in zip(one, other, strict=True):
            np.testing.assert_allclose(weight, twin, rtol=0, atol=rounding)
    stripped = tfmot.sparsity.keras.strip_pruning(our_model)
    twin = original.sparsity.keras.strip_pruning(their_model)
    assert [layer.name for layer in stripped.layers] == [layer.name for layer in twin.layers]
    for weight, other in zip(stripped.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(weight == 0, other == 0)
    outputs = our_model.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(stripped.predict(IMAGES, verbose=0), outputs)
    np.testing.assert_allclose(twin.predict(IMAGES, verbose=0), outputs, rtol=0, atol=10 * rounding)


def test_masks_of_tfmots_weights_are_tfmots(original):
    """From the same weights at every step, so that rounding errors of training do not matter."""
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.1, 0.95, 0, 11, frequency=1)
    theirs, _ = trained_by_tfmot(original, schedule, "SGD", network(keras).get_weights())
    pruned = tfmot.prune_low_magnitude(network(keras), schedule)
    layers = [layer for layer in pruned.layers if hasattr(layer, "pruning_step")]
    callback = tfmot.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    for step in range(1, STEPS - 1):
        net = network(keras)
        net.set_weights(theirs.weights[step])  # after the step, before the next one chooses masks
        copies = {layer.name: layer for layer in net.layers}
        for layer in layers:
            layer.layer.set_weights(copies[layer.layer.name].get_weights())
            layer.pruning_step.assign(step + 1)
        pruned(IMAGES[:2], training=True)
        masks = [np.asarray(mask.mask) for mask in masked_layers(pruned)]
        for mask, twin in zip(masks, theirs.masks[step + 1], strict=True):
            np.testing.assert_array_equal(mask, twin)


def small(name="dense", units=4):
    return keras.Sequential([keras.Input([6]), keras.layers.Dense(units, name=name)])


def fitted(model, epochs, callbacks=None, initial_epoch=0):
    """Train on the same data in every epoch."""
    x, y = IMAGES.reshape(32, -1)[:, :6], TARGETS[:, :4]
    callbacks = [tfmot.UpdatePruningStep()] if callbacks is None else callbacks
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "initial_epoch": initial_epoch}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **options)


def test_kept_weights_are_counted_exactly_and_grow_back():
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 1, 1, frequency=1)
    pruned = tfmot.prune_low_magnitude(keras.layers.Dense(2, use_bias=False), schedule)
    net = keras.Sequential([keras.Input([2]), pruned])
    pruned.layer.kernel.assign([[1.0, -2.0], [2.0, 2.0]])  # 3 equal magnitudes, 2 are kept
    net.compile(keras.optimizers.SGD(1.0), "mse")
    x, y = np.array([[1.0, 1.0]], "float32"), np.array([[3.0, 4.0]], "float32")
    step = tfmot.UpdatePruningStep()
    step.set_model(net)
    step.on_train_begin()
    net.train_on_batch(x, y)
    assert np.asarray(pruned.masks[0].mask).tolist() == [[False, True], [True, False]]
    # Predictions (2, -2), errors (-1, -6), gradients of the mean of two squares: the errors.
    assert np.asarray(pruned.layer.kernel).tolist() == [[1.0, 4.0], [3.0, 6.0]]
    step.on_epoch_end(0)
    assert np.asarray(pruned.layer.kernel).tolist() == [[0.0, 4.0], [3.0, 0.0]]


def test_a_saved_model_continues_its_schedule(tmp_path):
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.75, 1, 10, frequency=1)

    def made():
        keras.utils.set_random_seed(1)
        model = tfmot.prune_low_magnitude(small(), schedule)
        model.compile(keras.optimizers.Adam(0.05), "mse")
        return model

    whole, first = made(), made()
    fitted(whole, 3)
    fitted(first, 1)
    first.save(tmp_path / "pruned.keras")
    resumed = keras.saving.load_model(tmp_path / "pruned.keras", safe_mode=True)
    assert int(resumed.layers[0].pruning_step) == 4
    assert resumed.layers[0].pruning_schedule.get_config() == schedule.get_config()
    fitted(resumed, 3, initial_epoch=1)
    for weight, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    assert hydra_tf.sparsity.report(resumed)["total"]["kept"] == 6


@keras.saving.register_keras_serializable("tests")
class EveryOther:
    """A schedule of a user's own."""

    def __init__(self, sparsity):
        self.sparsity = sparsity

    def __call__(self, step):
        return step % 2 == 0, self.sparsity

    def get_config(self):
        return {"sparsity": self.sparsity}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_schedules_of_users_are_called_and_saved(tmp_path):
    model = tfmot.prune_low_magnitude(small(), EveryOther(0.25))
    model.compile("sgd", "mse")
    fitted(model, 1)
    assert hydra_tf.sparsity.report(model)["total"]["kept"] == 18
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    assert loaded.layers[0].pruning_schedule.sparsity == 0.25


def test_unknown_schedules_in_files_are_named():
    model = tfmot.prune_low_magnitude(small(), EveryOther(0.25))
    config = model.layers[0].get_config()
    config["pruning_schedule"]["class_name"] = "os>system"
    with pytest.raises(ValueError, match='pruning schedule "os>system" is not known; decorate'):
        type(model.layers[0]).from_config(config)


def test_training_without_the_callback_raises():
    model = tfmot.prune_low_magnitude(small())
    model.compile("sgd", "mse")
    with pytest.raises(tf.errors.InvalidArgumentError, match="without the callback UpdatePruning"):
        fitted(model, 1, callbacks=[])


def test_the_callback_says_that_it_has_nothing_to_do(warned):
    model = small()
    model.compile("sgd", "mse")
    fitted(model, 1)
    assert "UpdatePruningStep has nothing to do" in warned[0]


def test_layers_lists_and_unbuilt_models():
    schedule = EveryOther(0.5)
    layers = [keras.layers.Dense(3), keras.layers.ReLU(), keras.layers.Dense(4)]
    wrapped = tfmot.prune_low_magnitude(layers, schedule)
    net = tfmot.prune_low_magnitude(keras.Sequential(layers), schedule)
    for model in (keras.Sequential(wrapped), net):
        model.compile("sgd", "mse")
        fitted(model, 1)
        assert hydra_tf.sparsity.report(model)["total"]["kept"] == (18 + 12) / 2
    named = tfmot.prune_low_magnitude(keras.layers.Dense(3), schedule, name="small")
    assert named.name == "small"


def test_nested_models_and_shared_layers_stay_so():
    inner = keras.Sequential([keras.Input([6]), keras.layers.Dense(6, name="inner")], name="block")
    images = keras.Input([6])
    net = keras.Model(images, keras.layers.Dense(4, name="out")(inner(inner(images))))
    pruned = tfmot.prune_low_magnitude(net, EveryOther(0.5))
    x = IMAGES.reshape(32, -1)[:, :6]
    np.testing.assert_array_equal(pruned(x), net(x))
    pruned.compile("sgd", "mse")
    fitted(pruned, 1)
    assert [row["name"] for row in hydra_tf.sparsity.report(pruned)["layers"]] == [
        "prune_low_magnitude_inner",
        "prune_low_magnitude_out",
    ]
    stripped = tfmot.strip_pruning(pruned)
    np.testing.assert_array_equal(stripped(x), pruned(x))
    assert stripped.get_layer("block").get_layer("inner").kernel.numpy().astype(bool).sum() == 18


def test_prunable_layers_of_tfmot_name_their_weights(original):
    class Scale(keras.layers.Layer, original.sparsity.keras.PrunableLayer):
        def build(self, shape):
            self.factors = self.add_weight(name="factors", shape=(shape[-1],), initializer="ones")
            self.added = self.add_weight(name="added", shape=(1, shape[-1]))

        def call(self, x):
            return x * self.factors + self.added

        def get_prunable_weights(self):
            return [self.factors]

    net = keras.Sequential([keras.Input([6]), Scale(), keras.layers.Dense(4)])
    pruned = tfmot.prune_low_magnitude(net, EveryOther(0.5))
    rows = hydra_tf.sparsity.report(pruned)["layers"]
    assert [row["shape"] for row in rows] == [[6], [6, 4]]
    masked = hydra_tf.mask_model(net)
    assert [row["shape"] for row in hydra_tf.sparsity.report(masked)["layers"]] == [[6], [6, 4]]


@pytest.mark.parametrize(
    ("kind", "options", "shape"),
    [
        ("Conv1D", {"filters": 3, "kernel_size": 2}, (5, 4)),
        ("Conv2DTranspose", {"filters": 3, "kernel_size": 2}, (5, 5, 4)),
        ("DepthwiseConv2D", {"kernel_size": 2}, (5, 5, 4)),
        ("SeparableConv1D", {"filters": 3, "kernel_size": 2}, (5, 4)),
        ("Embedding", {"input_dim": 7, "output_dim": 3}, (5,)),
        ("LSTM", {"units": 3}, (5, 4)),
        ("GRU", {"units": 3}, (5, 4)),
        ("BatchNormalization", {}, (4,)),
    ],
)
def test_the_weights_that_tfmot_prunes(original, kind, options, shape):
    tf_keras, schedule = tfmot.import_tf_keras(), EveryOther(0.5)

    def built(library, prune):
        layer = getattr(library.layers, kind)(**options)
        inputs = library.Input(shape)
        wrapped = prune(layer, pruning_schedule=schedule)
        return wrapped, wrapped(inputs)

    ours, _ = built(keras, tfmot.prune_low_magnitude)
    theirs, _ = built(tf_keras, original.sparsity.keras.prune_low_magnitude)
    masks = [tuple(mask.kernel.shape) for mask in getattr(ours, "masks", [])]
    assert masks == [tuple(mask.shape) for _, mask, _ in theirs.pruning_vars]


def test_a_layer_with_several_inputs_is_built_first():
    wrapped = tfmot.prune_low_magnitude(keras.layers.MultiHeadAttention(2, 3), EveryOther(0.5))
    with pytest.raises(ValueError, match="has several inputs; build it before it is wrapped"):
        wrapped(keras.Input((5, 4)), keras.Input((5, 4)))


def test_a_file_loads_after_the_import_of_the_library_alone(tmp_path):
    model = tfmot.prune_low_magnitude(small(), EveryOther(0.5))
    model.save(tmp_path / "pruned.keras")
    code = """
import sys, numpy as np
import hydra_tf, keras
class EveryOther:
    get_config = dict
    def __call__(self, step): return step % 2 == 0, 0.5
    @classmethod
    def from_config(cls, config): return cls()
objects = {"tests>EveryOther": EveryOther}
model = keras.saving.load_model(sys.argv[1], custom_objects=objects, safe_mode=True)
assert "tensorflow_model_optimization" not in sys.modules
np.save(sys.argv[2], model(np.ones([1, 6])))
"""
    command = [sys.executable, "-c", code, tmp_path / "pruned.keras", tmp_path / "out.npy"]
    subprocess.run(command, check=True, timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model(np.ones([1, 6])))


def test_a_policy_chooses_the_layers():
    class OnlyWide:
        checked = None

        def allow_pruning(self, layer):
            return getattr(layer, "units", 0) > 4

        def ensure_model_supports_pruning(self, model):
            self.checked = model

    net = keras.Sequential([keras.Input([6]), keras.layers.Dense(5), keras.layers.Dense(4)])
    policy = OnlyWide()
    pruned = tfmot.prune_low_magnitude(net, EveryOther(0.5), pruning_policy=policy)
    assert [hasattr(layer, "pruning_step") for layer in pruned.layers] == [True, False]
    assert policy.checked is net


def test_replicas_prune_alike(two_replicas):
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.75, 1, 8, frequency=1)

    def made():
        keras.utils.set_random_seed(1)
        model = tfmot.prune_low_magnitude(small(), schedule)
        model.compile(keras.optimizers.SGD(0.05), "mse")
        return model

    alone = made()
    with two_replicas.scope():
        together = made()
    fitted(alone, 2)
    fitted(together, 2)
    for weight, other in zip(alone.get_weights(), together.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-6)
    assert hydra_tf.sparsity.report(together)["total"]["kept"] == 6


def test_a_robust_model_is_pruned_gradually():
    keras.utils.set_random_seed(1)
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.75, 1, 8, frequency=1)
    net = tfmot.prune_low_magnitude(small(), schedule)
    model = hydra_tf.RobustModel(net, "trades:epsilon=0.05,steps=2")
    model.compile("sgd", metrics=["accuracy"])
    x, y = IMAGES.reshape(32, -1)[:, :6], np.arange(32) % 4
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[tfmot.UpdatePruningStep()])
    assert hydra_tf.sparsity.report(model)["total"]["kept"] == 6
    plain = tfmot.strip_pruning(model)
    np.testing.assert_array_equal(plain(x), model(x))
    # What TFMOT has pruned, HYDRA keeps pruned.
    masked = hydra_tf.mask_model(plain, keep_zeros=True)
    assert hydra_tf.sparsity.report(masked)["total"]["kept"] == 6


def test_summaries_have_sparsity_and_threshold(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = tfmot.prune_low_magnitude(small(), tfmot.sparsity.keras.ConstantSparsity(0.75, 1, 1, 1))
    model.compile("sgd", "mse")
    before = np.sort(np.abs(model.layers[0].layer.kernel.numpy().ravel()))
    summaries = tfmot.PruningSummaries(str(tmp_path))
    fitted(model, 2, callbacks=[tfmot.UpdatePruningStep(), summaries])
    events = EventAccumulator(str(tmp_path / "metrics"))
    events.Reload()
    tag = "prune_low_magnitude_dense/{}"
    values = {
        name: [(e.step, tf.make_ndarray(e.tensor_proto).item()) for e in events.Tensors(name)]
        for name in (tag.format("mask:0/sparsity"), tag.format("threshold:0/threshold"))
    }
    assert values[tag.format("mask:0/sparsity")] == [(0, 0.0), (4, 0.75)]
    assert values[tag.format("threshold:0/threshold")] == [(0, 0.0), (4, pytest.approx(before[-6]))]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"block_size": (2, 2)}, ValueError, r"block_size=\(2, 2\)\) is not supported"),
        ({"sparsity_m_by_n": (2, 4)}, ValueError, r"sparsity_m_by_n=\(2, 4\)\) is not supported"),
        ({"block_pooling_type": "SUM"}, ValueError, 'must be "AVG" or "MAX"'),
        ({"pruning_schedule": 0.5}, TypeError, "must be a PruningSchedule of TFMOT"),
        ({"pruning_policy": object()}, TypeError, "must have the methods allow_pruning"),
    ],
)
def test_what_is_not_supported_is_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        tfmot.prune_low_magnitude(small(), **arguments)


def test_other_objects_and_policies_for_keras_2_are_refused(original):
    tf_keras = tfmot.import_tf_keras()
    with pytest.raises(TypeError, match=r"Keras 3 layer, .* not tf_keras\."):
        tfmot.prune_low_magnitude(tf_keras.Sequential([tf_keras.layers.Dense(2)]))
    policy = original.sparsity.keras.PruneForLatencyOnXNNPack()
    with pytest.raises(ValueError, match="knows the layers of Keras 2 only"):
        tfmot.prune_low_magnitude(small(), pruning_policy=policy)
    with pytest.raises(ValueError, match="log_dir must be a non-empty text"):
        tfmot.PruningSummaries("")
    subclassed = type("Subclassed", (keras.Model,), {})()
    subclassed.built = True
    with pytest.raises(TypeError, match="subclassed model"):
        tfmot.prune_low_magnitude(subclassed)
