"""Keras layers whose kernels are pruned by trainable scores."""

import keras  # noqa: F401 - before masked, so that hydra_tf registers its classes with Keras

from hydra_tf.layers.mask_state import MaskState, kernels_computed_once
from hydra_tf.layers.masked import (
    MASKED,
    MaskedConv1D,
    MaskedConv2D,
    MaskedConv3D,
    MaskedDense,
    MaskedDepthwiseConv1D,
    MaskedDepthwiseConv2D,
    MaskedKernel,
)
from hydra_tf.layers.masked_layer import MaskedLayer, WeightMask
from hydra_tf.layers.reverse_channels import ReverseChannels

__all__ = [
    "MASKED",
    "MaskState",
    "MaskedConv1D",
    "MaskedConv2D",
    "MaskedConv3D",
    "MaskedDense",
    "MaskedDepthwiseConv1D",
    "MaskedDepthwiseConv2D",
    "MaskedKernel",
    "MaskedLayer",
    "ReverseChannels",
    "WeightMask",
    "kernels_computed_once",
]
