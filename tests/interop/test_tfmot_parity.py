"""Magnitude pruning of Keras 3 models against TFMOT on tf_keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydra_tf.interop import tfmot
from hydra_tf.interop.tfmot.weight_groups import WeightGroups
from hydra_tf.sparsity import masked_layers
from tests.interop.tfmot_networks import EveryOther

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


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((12, 8), {"block_size": (4, 1)}),
        ((12, 8), {"block_size": (2, 4), "block_pooling_type": "MAX"}),
        ((11, 7), {"block_size": (4, 1)}),  # of which no multiple fits
        ((11, 7), {"block_size": (3, 2)}),
        ((11, 7), {"block_size": (1, 4), "block_pooling_type": "MAX"}),
        ((12, 8), {"sparsity_m_by_n": (2, 4)}),
        ((11, 7), {"sparsity_m_by_n": (1, 4)}),
        ((3, 3, 6, 5), {"sparsity_m_by_n": (2, 4)}),
        ((2, 2, 1, 5), {"sparsity_m_by_n": (2, 4)}),
    ],
)
def test_groups_of_weights_equal_those_of_tfmot(original, shape, groups):
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    arguments = {"block_size": (1, 1), "block_pooling_type": "AVG", "sparsity_m_by_n": None}
    arguments |= groups
    for seed, sparsity in enumerate((0.3, 0.5, 0.9)):
        kernel = np.random.default_rng(seed).normal(size=shape).astype("float32")
        theirs = pruning_impl.Pruning(
            training_step_fn=lambda: 1,
            pruning_vars=[],
            pruning_schedule=lambda step, sparsity=sparsity: (True, tf.constant(sparsity)),
            **{**arguments, "block_size": list(arguments["block_size"])},
        )
        _, mask = theirs._maybe_update_block_mask(tf.constant(kernel))
        ours = WeightGroups(**arguments).chosen(tf.constant(kernel), tf.constant(sparsity))
        np.testing.assert_array_equal(ours, np.asarray(mask) > 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "groups", [{"block_size": (4, 1)}, {"sparsity_m_by_n": (2, 4)}], ids=["block", "m_by_n"]
)
def test_groups_are_trained_as_by_tfmot(original, groups, tmp_path):
    made = tfmot.sparsity.keras.PolynomialDecay(0.2, 0.9, 2, 10, frequency=2)
    records, starts = [], None
    for library, package in ((keras, tfmot), (tfmot.import_tf_keras(), original)):
        layers = library.layers
        hidden = [layers.Flatten(), layers.Dense(20, "relu"), layers.Dense(5)]
        net = library.Sequential(hidden)
        net(IMAGES)
        starts = starts or net.get_weights()
        net.set_weights(starts)
        sparsity = package.sparsity.keras
        pruned = sparsity.prune_low_magnitude(net, pruning_schedule=made, **groups)
        pruned.compile(library.optimizers.SGD(0.05), "mse")
        record = Masks(library, lambda model: [])
        pruned.fit(
            IMAGES, TARGETS, batch_size=8, epochs=3, shuffle=False, verbose=0,
            callbacks=[sparsity.UpdatePruningStep(), record.callback],
        )  # fmt: skip
        records.append(record.weights)
        if library is keras:
            pruned.save(tmp_path / "pruned.keras")
            loaded = keras.saving.load_model(tmp_path / "pruned.keras")
            assert loaded.layers[1].weight_groups == pruned.layers[1].weight_groups
            zeros = np.mean(np.asarray(sparsity.strip_pruning(pruned).layers[1].kernel) == 0)
    assert len(records[0]) == len(records[1]) == STEPS
    for one, other in zip(*records, strict=True):
        for weight, twin in zip(one, other, strict=True):
            np.testing.assert_allclose(weight, twin, rtol=0, atol=1e-5)
    assert zeros >= 0.5  # without the last step, which also moves pruned weights
