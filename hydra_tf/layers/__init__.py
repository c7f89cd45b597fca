"""Keras layers whose kernels are pruned by trainable scores."""

import keras  # noqa: F401 - before masked, so that hydra_tf registers its classes with Keras

from hydra_tf.layers.masked import (
    MASKED,
    MaskedConv1D,
    MaskedConv2D,
    MaskedConv3D,
    MaskedDense,
    MaskedDepthwiseConv1D,
    MaskedDepthwiseConv2D,
    MaskedKernel,
    kernels_computed_once,
)

__all__ = [
    "MASKED",
    "MaskedConv1D",
    "MaskedConv2D",
    "MaskedConv3D",
    "MaskedDense",
    "MaskedDepthwiseConv1D",
    "MaskedDepthwiseConv2D",
    "MaskedKernel",
    "kernels_computed_once",
]
