"""Plain networks for files that compute in float32, and the comparison of these with Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydra_tf.core.keras_models import wrapped_network
from hydra_tf.core.types import require_number
from hydra_tf.export.batchnorm_folding import fold_batch_normalization
from hydra_tf.export.prepare import computes_in_half, image_shape, in_float32, plain_copy
from hydra_tf.export.probes import PROBES, Comparison, compare, keras_outputs, random_probes

_RELATIVE_ERROR = 1e-4


@dataclasses.dataclass(frozen=True)
class PlainNetwork:
    """A network without masks, as a function of images.

    Args:
        model: the plain Keras model, in float32.
        function: maps a batch of images to outputs.
        signature: shape and dtype of the batch.
        probes: [n, ...] images for the comparison, a multiple of the batch size.
        expected: [n, classes] outputs of the original Keras model on them.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> plain_network(net, 3).signature.shape
        TensorShape([3, 4])
    """

    model: keras.Model
    function: Callable[[tf.Tensor], tf.Tensor]
    signature: tf.TensorSpec
    probes: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]

    def batches(self) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the probe images in batches of the size of the signature."""
        size = self.signature.shape[0] or len(self.probes)
        yield from np.split(self.probes, len(self.probes) // size)


def plain_network(model: keras.Model, batch_size: int | None = None) -> PlainNetwork:
    """Return a network as a function, without masks and with batch normalisation in the kernels.

    Args:
        model: masked or plain functional or Sequential model, or a :class:`hydra_tf.RobustModel`.
        batch_size: number of images of a call; None for any.

    Raises:
        TypeError: for a subclassed model, or a batch size that is not a whole number.
        ValueError: more than one input or output, NaN outputs, or a batch size below 1.

    Example:
        >>> net = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        >>> len(plain_network(net, 3).probes)
        66
    """
    if batch_size is not None:
        require_number("batch_size", batch_size, whole=True)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, or None for any, not {batch_size}.")
    plain, reference = plain_copy(model), wrapped_network(model)
    if computes_in_half(plain):
        reference = plain = in_float32(plain)
    size = batch_size or 1
    probes = random_probes(image_shape(plain), -(-PROBES // size) * size)
    expected = keras_outputs(reference, probes)
    folded = fold_batch_normalization(plain)
    spec = tf.TensorSpec((batch_size, *image_shape(plain)), tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def outputs(images: tf.Tensor) -> tf.Tensor:
        return folded(images, training=False)

    return PlainNetwork(folded, outputs, spec, probes, expected)


def require_equal(network: PlainNetwork, outputs: np.ndarray[Any, Any], what: str) -> Comparison:
    """Return the comparison of a file with Keras.

    Args:
        network: the network.
        outputs: [n, classes] outputs of the file on the probe images.
        what: kind of the file, for the error.

    Raises:
        RuntimeError: if outputs differ by more than 1e-4 of the largest one.

    Example:
        >>> net = plain_network(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]))
        >>> require_equal(net, net.expected, "file").max_abs_error
        0.0
    """
    comparison = compare(outputs, network.expected)
    if not comparison.relative_error <= _RELATIVE_ERROR:
        raise RuntimeError(
            f"The outputs of the {what} differ from Keras's by up to {comparison.max_abs_error:g}, "
            f"{comparison.relative_error:.2g} of the largest output, so it was not kept."
        )
    return comparison
