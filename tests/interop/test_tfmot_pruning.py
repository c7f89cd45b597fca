"""Magnitude pruning of Keras 3 models with the names and the meaning of TFMOT."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.interop import tfmot
from hydra_tf.training import train
from tests.interop.tfmot_networks import EveryOther, X, fitted, small


@pytest.fixture(scope="module")
def original():
    """TFMOT itself."""
    return tfmot.import_tfmot()


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
    x = X
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
    x, y = X, np.arange(32) % 4
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
        ({"block_size": (2, 0)}, ValueError, "block_size must be two whole numbers of at least 1"),
        ({"block_size": 1}, ValueError, "block_size must be two whole numbers of at least 1"),
        ({"sparsity_m_by_n": (4, 4)}, ValueError, r"with m below n, not \(4, 4\)"),
        ({"sparsity_m_by_n": 2}, ValueError, "sparsity_m_by_n must be two whole numbers"),
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


def test_schedules_with_conditions_of_python(original):
    class Late(EveryOther):
        def __call__(self, step):
            if step > 2:
                return True, self.sparsity
            return False, 0.0

    model = tfmot.prune_low_magnitude(small(), Late(0.5))
    model.compile("sgd", "mse")
    fitted(model, 1)
    assert hydra_tf.sparsity.report(model)["total"]["kept"] == 12


def test_xla_is_turned_off(warned):
    model = tfmot.prune_low_magnitude(small(), EveryOther(0.5))
    with pytest.warns(UserWarning, match="Proceeding with `jit_compile=False`"):
        model.compile("sgd", "mse", jit_compile=True)
    fitted(model, 1)
    assert hydra_tf.sparsity.report(model)["total"]["kept"] == 12


@pytest.mark.parametrize("loop", [False, True], ids=["fit", "loop"])
def test_a_pipeline_cannot_set_masks_that_layers_choose_themselves(loop):
    net = tfmot.prune_low_magnitude(small(), EveryOther(0.5))
    model = hydra_tf.RobustModel(net, "natural")
    model.compile("sgd")
    pipeline = hydra_tf.HydraCallback(0.1, 0, 1, 1)
    data = tf.data.Dataset.from_tensor_slices((X, np.arange(32) % 4)).batch(8)

    def run():
        if loop:
            train(model, lambda epoch, step: data.skip(step).repeat(), 4, pipeline, verbose=0)
        else:
            model.fit(data, epochs=2, verbose=0, callbacks=[pipeline])

    with pytest.raises(ValueError, match=r"_dense\" is pruned by a schedule .* call strip_pruning"):
        run()


def test_misuse_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"takes a list of Keras layers, not \[3\]"):
        tfmot.prune_low_magnitude([3], EveryOther(0.5))
    for several in (small(), [keras.layers.Dense(2)]):
        with pytest.raises(TypeError, match="does not know the arguments schedule for a model or"):
            tfmot.prune_low_magnitude(several, schedule=EveryOther(0.5))
    conv = keras.Sequential([keras.Input([8, 3]), keras.layers.Conv1D(2, 3, name="conv")])
    for groups in ({"block_size": (2, 1)}, {"sparsity_m_by_n": (2, 4)}):
        with pytest.raises(
            ValueError, match=r'conv" has the shape .*; prune the other layers only'
        ):
            tfmot.prune_low_magnitude(conv, EveryOther(0.5), **groups)
    with pytest.raises(ValueError, match=r'"dense" has a mask already; call hydra_tf\.strip'):
        tfmot.prune_low_magnitude(hydra_tf.mask_model(small()))
    unbuilt = keras.Sequential([tfmot.prune_low_magnitude(keras.layers.Dense(2))])
    with pytest.raises(ValueError, match="is not built yet, so that it has no masks to save"):
        unbuilt.save(tmp_path / "unbuilt.keras")
