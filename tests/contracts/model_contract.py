"""What holds for every network of the zoo."""

import keras
import numpy as np
import pytest

import hydra_tf
from hydra_tf.checks.models import require_logits
from hydra_tf.sparsity import masked_layers

CLASSES = 3


def build(network, size=None, seed=0):
    size = size or network.least_size
    return network((size, size, 2), CLASSES, seed=seed)


def images(model):
    return np.random.default_rng(0).random((2, *model.input_shape[1:])).astype("float32")


def check_logits(network):
    """Check that the model is functional, has Keras layers only, and outputs logits."""
    model = build(network)
    assert model.output_shape == (None, CLASSES), f"{network} outputs {model.output_shape}"
    for layer in model.layers:
        own = type(layer).__module__.startswith("keras.")
        assert own and not isinstance(layer, keras.layers.Lambda), f"{network} has a {layer}"
    try:
        require_logits(model)
    except ValueError as error:
        raise AssertionError(f"{network} does not output logits: {error}") from error


def check_seed(network):
    """Check that the weights are a function of the seed alone."""
    kernels = []
    for global_seed, seed in ((0, 1), (1, 1), (0, 2)):
        keras.utils.set_random_seed(global_seed)
        model = build(network, seed=seed)
        kernels.append([np.array(w) for w in model.weights if w.name == "kernel"])
    for first, again, other in zip(*kernels, strict=True):
        assert np.array_equal(first, again), f"{network} ignores its seed"
        assert not np.array_equal(first, other), f"{network} is the same for all seeds"


def check_masks_and_saves(network, path):
    """Check outputs after masking, pruning, stripping, saving and loading."""
    model = build(network)
    x = images(model)
    masked = hydra_tf.mask_model(model)
    assert len(masked_layers(masked)) == sum(hasattr(layer, "kernel") for layer in model.layers)
    np.testing.assert_allclose(masked(x), model(x), atol=1e-5)
    hydra_tf.set_density(masked, 0.5)
    stripped = hydra_tf.strip_masks(masked)
    np.testing.assert_allclose(stripped(x), masked(x), atol=1e-5)
    assert [type(a) for a in stripped.layers] == [type(b) for b in model.layers]
    masked.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    for ours, theirs in zip(masked.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def check_refuses_small_images(network):
    """Check the sentence about images that are too small."""
    size = network.least_size
    try:
        with pytest.raises(ValueError, match=f"at least {size}x{size}, not {size - 1}x{size - 1}"):
            build(network, size - 1)
    except (AssertionError, pytest.fail.Exception) as error:
        raise AssertionError(f"{network} has no sentence for small images") from error
