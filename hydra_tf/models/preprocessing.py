"""Input preprocessing of published networks, as layers of the model.

Attacks, bounds and certificates see images in [0, 1]; what a network expects instead is computed
by its first layers.
"""

from __future__ import annotations

from typing import Any

import keras

from hydra_tf.core.registry import unknown
from hydra_tf.layers.reverse_channels import ReverseChannels

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
# What each family of keras.applications expects; "raw" ones rescale inside.
_MODES = {
    "ResNet": "caffe", "VGG": "caffe", "DenseNet": "torch", "MobileNetV3": "raw",
    "EfficientNet": "raw", "ConvNeXt": "raw", "MobileNet": "tf", "Inception": "tf",
    "Xception": "tf", "NASNet": "tf",
}  # fmt: skip
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR in [0, 255]


def _layers(mode: str) -> list[keras.layers.Layer]:
    """Return the layers that map images in [0, 1] to what a network expects."""
    rescaling = keras.layers.Rescaling
    if mode == "tf":
        return [rescaling(2.0, -1.0, name="preprocess_rescale")]
    if mode == "torch":
        offset = [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)]
        return [rescaling([1 / std for std in _STD], offset, name="preprocess_rescale")]
    if mode == "caffe":
        scaled = rescaling(255.0, [-mean for mean in _CAFFE_MEAN], name="preprocess_rescale")
        return [ReverseChannels(name="preprocess_bgr"), scaled]
    if mode == "raw":
        return [rescaling(255.0, name="preprocess_rescale")]
    raise ValueError(f'Unknown preprocessing "{mode}". Known: caffe, raw, tf, torch.')


def with_preprocessing(model: keras.Model, mode: str) -> keras.Model:
    """Return a model that takes images in [0, 1], preprocesses them and calls `model` on them.

    The layers and weights are those of `model`.

    Args:
        model: a functional or Sequential model that takes preprocessed images [batch, height,
            width, 3].
        mode: ``"caffe"`` (BGR in [0, 255] minus the mean), ``"tf"`` ([-1, 1]), ``"torch"`` (minus
            mean, divided by standard deviation) as ``mode`` of the ``preprocess_input`` of
            ``keras.applications``, or ``"raw"`` ([0, 255]).

    Returns:
        A functional model.

    Raises:
        ValueError: for an unknown mode, or images without three channels, except in the modes
            ``"tf"`` and ``"raw"``.

    Example:
        >>> net = keras.Sequential([keras.Input([2, 2, 3]), keras.layers.Flatten()])
        >>> float(with_preprocessing(net, "tf")(keras.ops.zeros([1, 2, 2, 3]))[0, 0])
        -1.0
    """
    layers, shape = _layers(mode), model.input_shape[1:]
    if mode in ("caffe", "torch") and shape[-1] != 3:
        raise ValueError(f'Preprocessing "{mode}" is that of RGB images, not of shape {shape}.')
    images = keras.Input(shape, name="images")
    x = images
    for layer in layers:
        x = layer(x)
    return keras.Model(images, model(x), name=model.name)


def application(architecture: str, **kwargs: Any) -> keras.Model:
    """Return a network of ``keras.applications`` that takes images in [0, 1] and outputs logits.

    Args:
        architecture: its name there, such as ``"MobileNetV2"``.
        **kwargs: arguments of its function there, such as ``input_shape``, ``classes`` and
            ``weights`` (a file, ``"imagenet"``, which Keras downloads, or None, the default).

    Returns:
        A functional model, whose first layers preprocess the images as the network expects.

    Raises:
        ValueError: for an unknown architecture, or as the function in ``keras.applications``.

    Example:
        >>> net = application("MobileNetV2", input_shape=(32, 32, 3), classes=10)
        >>> [layer.name for layer in net.layers][:2], net.output_shape
        (['images', 'preprocess_rescale'], (None, 10))
    """
    known = [name for name in dir(keras.applications) if name.startswith(tuple(_MODES))]
    if architecture not in known:
        raise ValueError(unknown("architecture", architecture, known))
    if "include_preprocessing" in kwargs:
        raise ValueError(
            "application adds the preprocessing itself; leave include_preprocessing out."
        )
    build = getattr(keras.applications, architecture)
    net = build(**{"weights": None, "classifier_activation": None, **kwargs})
    return with_preprocessing(net, _mode(architecture))


def _mode(architecture: str) -> str:
    """Return the preprocessing of a network of keras.applications."""
    if architecture.startswith("ResNet") and architecture.endswith("V2"):
        return "tf"
    return _MODES[max((name for name in _MODES if architecture.startswith(name)), key=len)]
