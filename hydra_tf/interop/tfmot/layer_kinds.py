"""The kinds of layers that Keras 3 and tf_keras share and that TFMOT's quantization supports.

A kind is converted by making the layer of the same class in the other library from the same
arguments, then copying its weights by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A class of layers that both libraries have.

    Args:
        arguments: entries of its config that are arguments of both classes, by the names of
            Keras 3.
        renamed: names of arguments and weights in tf_keras, where they differ, by those of Keras 3.
    """

    arguments: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


def _with_functions(*weights: str) -> tuple[str, ...]:
    """Return the arguments that regularize or constrain weights, and the outputs."""
    names = [f"{name}_{what}" for name in weights for what in ("regularizer", "constraint")]
    return (*names, "activity_regularizer")


_WINDOW = ("strides", "padding", "data_format")
_CONV = ("kernel_size", *_WINDOW, "dilation_rate", "activation", "use_bias")
_KERNEL = _with_functions("kernel", "bias")
_SEPARABLE = Kind(
    ("filters", "depth_multiplier", *_CONV, *_with_functions("depthwise", "pointwise", "bias"))
)
_POOL = Kind(("pool_size", *_WINDOW))
_GLOBAL_POOL = Kind(("data_format", "keepdims"))

KINDS: Mapping[str, Kind] = {
    "Activation": Kind(("activation",)),
    "ActivityRegularization": Kind(("l1", "l2")),
    "Add": Kind(),
    "AveragePooling1D": _POOL,
    "AveragePooling2D": _POOL,
    "BatchNormalization": Kind(
        ("axis", "momentum", "epsilon", "center", "scale", *_with_functions("beta", "gamma")[:-1])
    ),
    "Concatenate": Kind(("axis",)),
    "Conv2D": Kind(("filters", "groups", *_CONV, *_KERNEL)),
    "Conv2DTranspose": Kind(("filters", "output_padding", *_CONV, *_KERNEL)),
    "Cropping1D": Kind(("cropping",)),
    "Cropping2D": Kind(("cropping", "data_format")),
    "Cropping3D": Kind(("cropping", "data_format")),
    "Dense": Kind(("units", "activation", "use_bias", *_KERNEL)),
    "DepthwiseConv2D": Kind(
        ("depth_multiplier", *_CONV, *_with_functions("depthwise", "bias")),
        {"kernel": "depthwise_kernel"},
    ),
    "Dropout": Kind(("rate", "noise_shape", "seed")),
    "Flatten": Kind(("data_format",)),
    "GlobalAveragePooling1D": _GLOBAL_POOL,
    "GlobalAveragePooling2D": _GLOBAL_POOL,
    "GlobalAveragePooling3D": _GLOBAL_POOL,
    "GlobalMaxPooling1D": _GLOBAL_POOL,
    "GlobalMaxPooling2D": _GLOBAL_POOL,
    "GlobalMaxPooling3D": _GLOBAL_POOL,
    "LeakyReLU": Kind(("negative_slope",), {"negative_slope": "alpha"}),
    "MaxPooling2D": _POOL,
    "Permute": Kind(("dims",)),
    "ReLU": Kind(("max_value", "negative_slope", "threshold")),
    "Reshape": Kind(("target_shape",)),
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "Softmax": Kind(("axis",)),
    "SpatialDropout1D": Kind(("rate", "seed")),
    "SpatialDropout2D": Kind(("rate", "seed")),
    "SpatialDropout3D": Kind(("rate", "seed")),
    "UpSampling2D": Kind(("size", "data_format", "interpolation")),
    "ZeroPadding1D": Kind(("padding",)),
    "ZeroPadding2D": Kind(("padding", "data_format")),
}
