"""Layers that the contract of bounds constructs, in addition to those that it derives itself.

A rule needs no entry if its layer class can be constructed from ``ARGUMENTS``. Other layers, and
settings that deserve a test, are listed here.
"""

from keras import layers

# Values of constructor arguments that have no default.
ARGUMENTS = {
    "units": 3,
    "filters": 4,
    "kernel_size": 2,
    "pool_size": 2,
    "rate": 0.5,
    "stddev": 0.5,
    "scale": -2.0,
    "target_shape": (-1,),
    "activation": "relu",
}

# Functions that return a layer or a function of one or more tensors, for registered targets.
EXAMPLES = {
    "layers.Add": [
        lambda: lambda a, b: layers.Add()([a, layers.GlobalAveragePooling2D()(b)]),
        lambda: lambda a, b: layers.Add()([a, b, a]),
    ],
    "layers.AveragePooling2D": [lambda: layers.AveragePooling2D(3, strides=2, padding="same")],
    "layers.BatchNormalization": [lambda: layers.BatchNormalization(scale=False, center=False)],
    "layers.Concatenate": [lambda: lambda a, b: layers.Concatenate(axis=1)([b, a])],
    "layers.Conv1D": [lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2)],
    "layers.Conv2D": [
        lambda: layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        lambda: layers.Conv2D(3, 2, groups=3, dilation_rate=2, use_bias=False),
    ],
    "layers.Dense": [lambda: layers.Dense(3, activation=layers.LeakyReLU(negative_slope=0.1))],
    "layers.DepthwiseConv2D": [
        lambda: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)
    ],
    "layers.LeakyReLU": [lambda: layers.LeakyReLU(negative_slope=1.0)],
    "layers.MaxPooling2D": [lambda: layers.MaxPooling2D(3, strides=2, padding="same")],
    "layers.Normalization": [
        lambda: layers.Normalization(mean=0.4, variance=0.3),
        lambda: layers.Normalization(mean=0.4, variance=0.3, invert=True),
    ],
    "layers.Permute": [lambda: layers.Permute((2, 1))],
    "layers.ReLU": [lambda: layers.ReLU(negative_slope=0.3)],
    "layers.Subtract": [
        lambda: lambda a, b: layers.Subtract()([layers.GlobalMaxPooling2D()(b), a])
    ],
}
