"""Preparing a Keras model for export: plain layers, float32, a batch of one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hydra_tf.core.keras_models import all_layers
from hydra_tf.models.masking import strip_masks

_HALF = ("float16", "bfloat16")


def plain_copy(model: keras.Model) -> keras.Model:
    """Return a copy with plain Keras layers, without negative zeros.

    A mask turns negative weights into -0.0, and random signs would cost gzip a bit for every
    pruned weight.

    Args:
        model: a model as in :func:`hydra_tf.strip_masks`.

    Raises:
        TypeError: for a subclassed model.

    Example:
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        >>> net.set_weights([np.array([[-0.0]]), np.array([2.0])])
        >>> np.signbit(plain_copy(net).get_weights()[0]).item()
        False
    """
    copy = strip_masks(model)
    copy.set_weights([weight + np.zeros((), weight.dtype) for weight in copy.get_weights()])
    return copy


def without_optimizer(model: keras.Model) -> keras.Model:
    """Return a copy that is not compiled, because an optimizer's state would triple its file.

    Example:
        >>> net = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        >>> net.compile("adam")
        >>> without_optimizer(net).compiled
        False
    """
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def image_shape(model: keras.Model) -> tuple[int, ...]:
    """Return the shape of one image of a model of one input and one output.

    Raises:
        ValueError: more inputs or outputs, or a shape that is not fixed.

    Example:
        >>> image_shape(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]))
        (4,)
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "Only models of one input and one output can be exported; this one has "
            f"{len(model.inputs)} and {len(model.outputs)}."
        )
    shape = tuple(model.input_shape[1:])
    if None in shape:
        raise ValueError(
            f"The model takes images of shape {shape}, which is not fixed; build it with a "
            "number in every position."
        )
    return shape


def computes_in_half(model: keras.Model) -> bool:
    """Return whether any layer computes in 16-bit numbers (a mixed precision policy).

    Example:
        >>> dense = keras.layers.Dense(2, dtype="mixed_float16")
        >>> computes_in_half(keras.Sequential([keras.Input([4]), dense]))
        True
    """
    return any(layer.compute_dtype in _HALF for layer in all_layers(model))


def _float32_config(config: Any) -> Any:
    """Return a layer's config with every 16-bit dtype or policy replaced by float32."""
    if isinstance(config, dict):
        policy = config.get("class_name") == "DTypePolicy" and config["config"]["name"]
        if policy and policy.endswith(_HALF):
            return "float32"
        return {
            key: "float32" if key == "dtype" and value in _HALF else _float32_config(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_float32_config(entry) for entry in config)
    return config


def in_float32(model: keras.Model) -> keras.Model:
    """Return a copy of a plain model that computes in float32, with the same weights.

    Example:
        >>> dense = keras.layers.Dense(2, dtype="mixed_float16")
        >>> net = in_float32(keras.Sequential([keras.Input([4]), dense]))
        >>> net.layers[0].compute_dtype
        'float32'
    """

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(_float32_config(layer.get_config()))

    clone = keras.models.clone_model(model, clone_function=convert, recursive=True)
    clone.set_weights(model.get_weights())
    return clone


def for_one_image(model: keras.Model) -> keras.Model:
    """Return the model on a batch of exactly one float32 image, with the same weights.

    A fixed batch lets the converter fold shape computations such as those of Flatten.

    Example:
        >>> for_one_image(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])).output_shape
        (1, 2)
    """
    image = keras.Input(batch_shape=(1, *image_shape(model)), dtype="float32", name="image")
    # Names are part of the file: a numbered default name would make equal exports differ.
    return keras.Model(image, model(image), name="single")
