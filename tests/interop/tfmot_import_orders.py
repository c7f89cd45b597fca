"""Programs that use keras, tf.keras and tfmot in some order; each asserts that nothing changes.

A child process of test_bridge_importing.py. Arguments: names of the functions below; each runs in a
fork of its own, because TensorFlow decides once which Keras its names stand for.
"""

import os
import sys


def load():
    """Import tfmot through hydra_tf and return the environment variables that changed."""
    import keras  # noqa: F401, it sets variables of its own

    before = dict(os.environ)
    from hydra_tf.interop.tfmot import import_tf_keras, import_tfmot

    assert import_tf_keras() is sys.modules["tf_keras"]
    assert import_tfmot() is sys.modules["tensorflow_model_optimization"]
    return {name for name in {*os.environ, *before} if before.get(name) != os.environ.get(name)}


def models():
    """Return the Model classes of all names of TensorFlow for Keras."""
    import tensorflow as tf

    return [module.Model for module in (tf.keras, tf.compat.v2.keras, tf.compat.v1.keras)]


def tfmot_works():
    import tensorflow_model_optimization as tfmot
    import tf_keras

    net = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    (layer,) = tfmot.sparsity.keras.prune_low_magnitude(net).layers
    assert type(layer).__name__ == "PruneLowMagnitude"


def tf_keras_used_after_tfmot():
    import keras
    import tensorflow as tf

    classes = keras.Model, keras.layers.Dense
    assert load() == set()
    assert classes == (keras.Model, keras.layers.Dense)
    assert sys.modules["keras"] is keras
    assert keras.__version__.startswith("3.")
    assert models() == [keras.Model] * 3
    assert tf.optimizers.SGD is keras.optimizers.SGD
    tfmot_works()


def tf_keras_used_before_tfmot():
    import keras
    import tensorflow as tf

    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    module = tf.keras
    assert models() == [keras.Model] * 3
    assert load() == set()
    assert tf.keras.layers is module.layers
    assert models() == [keras.Model] * 3
    tfmot_works()


def tfmot_before_everything():
    assert "tensorflow" not in sys.modules
    load()
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    import keras

    assert models() == [keras.Model] * 3
    tfmot_works()


def user_chose_keras_2():
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import keras

    assert load() == set()
    import tf_keras

    assert all(issubclass(model, tf_keras.Model) for model in models())
    assert not issubclass(keras.Model, tf_keras.Model)
    tfmot_works()


def tfmot_cannot_be_imported():
    import keras

    sys.modules["tensorflow_model_optimization.python.core.api"] = None
    try:
        load()
    except ImportError:
        assert "TF_USE_LEGACY_KERAS" not in os.environ
        assert models() == [keras.Model] * 3
    else:
        raise AssertionError("The import did not fail.")


def main(names):
    if "tfmot_before_everything" not in names:
        import keras  # noqa: F401, once for all forks, with tensorflow
    for name in names:
        process = os.fork()
        if not process:
            globals()[name]()
            print(name)
            sys.exit()
        _, status = os.waitpid(process, 0)
        assert status == 0, name


if __name__ == "__main__":
    main(sys.argv[1:])
