"""Validation attacks that find no gradient are warned of, once in each fit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hydra_tf
from hydra_tf.training import train

RNG = np.random.default_rng(0)
X = RNG.random((40, 6)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class Signs(keras.layers.Layer):
    """Maps pixels to signs, which have no gradient."""

    def call(self, x):
        return tf.sign(x - 0.5)


def model_and_labels(*first, **options):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input([6]), *first, keras.layers.Dense(3)])
    y = np.argmax(net(X, training=False), -1)
    y[:10] = (y[:10] + 1) % 3  # misclassified images are not attacked
    options = {"validation_attack": "pgd:epsilon=0.01,steps=2", **options}
    model = hydra_tf.RobustModel(net, "natural", **options)
    model.compile(keras.optimizers.SGD(0.0), metrics=["accuracy"])
    return model, y


def warnings(caplog):
    found = [text for text in caplog.messages if "zero or not finite" in text]
    caplog.clear()
    return found


def test_fit_and_evaluate_warn_once_each(caplog):
    model, y = model_and_labels(Signs())
    with caplog.at_level("WARNING", logger="absl"):
        history = model.fit(X, y, epochs=2, validation_data=(X, y), verbose=0).history
        (text,) = warnings(caplog)
        assert "100.0% of the images" in text
        assert 'the attack "pgd"' in text
        assert "validation attack" in text
        for _ in range(2):
            results = model.evaluate(X, y, batch_size=16, verbose=0, return_dict=True)
            assert len(warnings(caplog)) == 1
    assert set(results) == {"loss", "accuracy", "robust_accuracy", "zero_gradient_share"}
    assert results["zero_gradient_share"] == 1.0
    assert history["val_zero_gradient_share"] == [1.0, 1.0]


def test_the_share_is_of_correct_images_over_all_batches(caplog):
    # Images below 0.5 in their first pixel have no gradient.
    class Half(keras.layers.Layer):
        def call(self, x):
            return tf.where(x[:, :1] < 0.5, tf.round(8.0 * x) / 8.0, x)

    model, y = model_and_labels(Half())
    correct = np.argmax(model.predict(X, verbose=0), -1) == y
    with caplog.at_level("WARNING", logger="absl"):
        model.evaluate(X, y, batch_size=16, verbose=0)
    share = (correct & (X[:, 0] < 0.5)).sum() / correct.sum()
    assert 0.2 < share < 0.8
    assert f"{share:.1%} of the images" in warnings(caplog)[0]


@pytest.mark.parametrize("attack", ["pgd:epsilon=0.01,steps=2", None])
def test_networks_with_gradients_cause_no_warning(attack, caplog):
    model, y = model_and_labels(validation_attack=attack)
    with caplog.at_level("WARNING", logger="absl"):
        model.fit(X, y, validation_data=(X, y), verbose=0)
    assert warnings(caplog) == []


def test_files_do_not_contain_the_count(tmp_path):
    model, y = model_and_labels()
    model.evaluate(X, y, verbose=0)
    model.save(tmp_path / "a.keras")
    names = [weight.path for weight in keras.saving.load_model(tmp_path / "a.keras").variables]
    assert not any("gradient" in name for name in names)
    assert not any("gradient" in metric.name for metric in model.metrics)


def test_the_training_loop_warns_once(caplog):
    model, y = model_and_labels(Signs())
    data = tf.data.Dataset.from_tensor_slices((X, y.astype("int32"))).batch(16)
    pipeline = hydra_tf.HydraCallback(0.5, pretrain_epochs=2)
    with caplog.at_level("WARNING", logger="absl"):
        train(
            model,
            lambda epoch, step: data.repeat().skip(step),
            steps_per_epoch=3,
            pipeline=pipeline,
            validation_data=data,
            verbose=0,
        )
    (text,) = warnings(caplog)
    assert "100.0% of the images" in text


def test_two_replicas_count_together(caplog, two_replicas):
    with two_replicas.scope():
        model, y = model_and_labels(Signs())
    with caplog.at_level("WARNING", logger="absl"):
        model.evaluate(X, y, batch_size=16, verbose=0)
    assert "100.0% of the images" in warnings(caplog)[0]
