"""Which layers are masked, and invalid choices of layers."""

import keras
import pytest

import hydra_tf
from hydra_tf.sparsity.model import masked_layers

L = keras.layers


def nested():
    deep = keras.Sequential([keras.Input([4]), L.Dense(4, name="deep_dense")], name="deep")
    block = keras.Sequential([keras.Input([4]), L.Dense(4, name="block_dense"), deep], name="block")
    images = keras.Input([4])
    return keras.Model(images, L.Dense(3, name="logits")(block(images)))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"include": "block"}, ["block_dense", "deep_dense"]),
        ({"include": lambda layer: layer.name == "block"}, ["block_dense", "deep_dense"]),
        ({"exclude": "block"}, ["logits"]),
        ({"exclude": ["deep"]}, ["block_dense", "logits"]),
        ({"include": "block", "exclude": "deep_*"}, ["block_dense"]),
    ],
)
def test_a_nested_model_selects_all_its_layers(choice, expected):
    masked = hydra_tf.mask_model(nested(), **choice)
    assert sorted(layer.name for layer in masked_layers(masked)) == expected


def test_an_invalid_choice_raises():
    net = nested()
    for argument in ("include", "exclude"):
        for wrong in (3, [net.layers[-1]], net.layers[-1:]):
            with pytest.raises(TypeError, match=f"{argument} must be a name pattern, a list of"):
                hydra_tf.mask_model(net, **{argument: wrong})


def test_a_lambda_raises_and_names_the_alternative():
    doubled = L.Lambda(lambda x: 2 * x, name="doubled")
    net = keras.Sequential([keras.Input([4]), L.Dense(3), doubled])
    for change in (hydra_tf.mask_model, hydra_tf.strip_masks):
        with pytest.raises(ValueError, match=r'"doubled" is a Lambda, .* write it with keras.ops'):
            change(net)
