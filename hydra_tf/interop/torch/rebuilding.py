"""Whether a Keras model computes what the network of the zoo with its layer names does."""

from __future__ import annotations

import keras
import numpy as np

from hydra_tf.export.probes import compare, keras_outputs, random_probes
from hydra_tf.interop.torch.layouts import Layout
from hydra_tf.models import build, strip_masks

_PROBES = 4
_LARGEST_ERROR = 1e-4  # relative; another epsilon of BatchNorm alone makes more
_LARGEST_IN_HALF_PRECISION = 0.05


def require_zoo_network(net: keras.Model, layout: Layout) -> None:
    """Check that the network of the zoo, with the weights of a model, has the same outputs.

    Args:
        net: a model with the layer names of a layout, masked or plain.
        layout: the layout.

    Raises:
        TypeError: for a subclassed model.
        ValueError: for a model with other inputs, weights or outputs than the network has, or
            with outputs that are not finite.

    Example:
        >>> from hydra_tf import models
        >>> from hydra_tf.interop.torch.layouts import layout_of
        >>> net = models.build("mnist_cnn", (8, 8, 1), 10)
        >>> require_zoo_network(net, layout_of(net))
    """
    plain = strip_masks(net)
    # Kernels have the axes of PyTorch in reverse.
    shapes = {
        f"{module}.weight": tuple(reversed(plain.get_layer(name).weights[0].shape))
        for name, module in layout.modules.items()
    }
    spec = layout.architecture(shapes)
    refusal = f'The model "{net.name}" has the layer names of {spec}, but is another network'
    try:
        rebuilt = build(spec, plain.inputs[0].shape[1:], layout.num_classes(shapes), seed=0)
    except ValueError as error:
        raise ValueError(f"{refusal}: {error}") from error
    if _description(plain) != _description(rebuilt):
        raise ValueError(
            f"{refusal}: its inputs, weights or outputs have other shapes; only networks of "
            "hydra_tf.models can be written."
        )
    for name in layout.modules:
        rebuilt.get_layer(name).set_weights(plain.get_layer(name).get_weights())
    images = random_probes(rebuilt.input_shape[1:], _PROBES)
    # Some activations differ only at large values.
    images = np.concatenate([images, 20 * images - 10])
    difference = compare(keras_outputs(net, images), keras_outputs(rebuilt, images)).relative_error
    half = plain.layers[-1].compute_dtype in ("float16", "bfloat16")
    if difference > (_LARGEST_IN_HALF_PRECISION if half else _LARGEST_ERROR):
        raise ValueError(
            f"{refusal}: with the same weights its outputs differ by up to {difference:.1%}; only "
            "networks of hydra_tf.models can be written."
        )


def _description(model: keras.Model) -> object:
    """Return the shapes of inputs and outputs, and the names and shapes of all weights."""
    weights = {
        layer.name: [(weight.name, tuple(weight.shape)) for weight in layer.weights]
        for layer in model.layers
        if layer.weights
    }
    return [tuple(each.shape) for each in model.inputs], model.output_shape, weights
