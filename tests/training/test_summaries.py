"""What is written for TensorBoard: densities, churn of masks, security curves, images."""

import glob

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hydra_tf
from hydra_tf.core.durations import duration
from hydra_tf.training import AttackSummaries, MaskSummaries

X, Y = np.zeros([4, 2], np.float32), np.zeros(4, np.int32)


def scalars(folder):
    """Return the values of each tag, by epoch."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    return {
        tag: [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if tag != "images"
    }


def test_churn_counts_the_weights_that_a_mask_takes_up(tmp_path):
    net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, name="logits")])
    model = hydra_tf.RobustModel(net, "natural")
    watch = MaskSummaries(tmp_path)
    watch.set_model(model)
    layer = model.net.get_layer("logits")
    masks = [[1, 1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0, 0]]
    for epoch, mask in enumerate(masks):
        layer.mask.assign(np.reshape(mask, [4, 2]).astype(bool))
        watch.on_epoch_end(epoch)
    values = scalars(tmp_path)
    assert values["density/logits"] == [0.5, 0.5, 0.25]
    # One of four kept weights is new, then none of two; the first epoch has none before it.
    assert values["churn/logits"] == values["churn"] == [0.25, 0.0]


def test_layers_with_the_same_name_have_tags_of_their_own(tmp_path):
    parts = [keras.Sequential([keras.layers.Dense(n, name="fc")]) for n in (3, 2)]
    model = hydra_tf.RobustModel(keras.Sequential([keras.Input([2]), *parts]), "natural")
    model.compile("sgd")
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[MaskSummaries(tmp_path)])
    values = scalars(tmp_path)
    assert values["churn/0/fc"] == values["churn/1/fc"] == [0.0]


def test_the_security_curve_is_that_of_the_attack(tmp_path):
    # The logits of a pixel p are (0.5, p): class 1 above 0.5.
    net = keras.Sequential([keras.Input([1, 1, 1]), keras.layers.Flatten(), keras.layers.Dense(2)])
    net.layers[-1].set_weights([np.array([[0.0, 1.0]]), np.array([0.5, 0.0])])
    images = np.array([0.55, 0.65, 0.9, 0.4]).reshape(4, 1, 1, 1)  # the last one is wrong
    watch = AttackSummaries(tmp_path, images, [1, 1, 1, 1], [0.1, 0.2], attack="pgd:steps=5")
    watch.set_model(net)
    watch.on_epoch_end(0)
    values = scalars(tmp_path)
    assert values == {"security/0": [0.75], "security/0.1": [0.5], "security/0.2": [0.25]}
    (path,) = glob.glob(f"{tmp_path}/events*")
    shown = [
        tf.image.decode_png(value.tensor.string_val[2]).numpy()
        for event in tf.compat.v1.train.summary_iterator(path)
        for value in event.summary.value
        if value.tag == "images"
    ]
    (picture,) = shown
    np.testing.assert_allclose(picture[0, :, 0] / 255, images.reshape(4), atol=0.003)
    # The twins at 0.1 are darker by it.
    np.testing.assert_allclose(picture[1, :3, 0] / 255, images.reshape(4)[:3] - 0.1, atol=0.003)


def test_a_curve_needs_epsilons(tmp_path):
    with pytest.raises(ValueError, match="epsilons must list the radii of the curve"):
        AttackSummaries(tmp_path, X, Y, [])


def test_durations_have_the_unit_that_fits():
    assert [duration(s) for s in (5, 60, 61, 3600, 9000)] == [
        "5 s", "1 min", "2 min", "1 h 00 min", "2 h 30 min",
    ]  # fmt: skip
