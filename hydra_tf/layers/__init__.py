"""Keras layers whose kernels are pruned by a trainable score."""

import keras  # noqa: F401 - first: its import makes hydra_tf enter its classes with Keras

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
